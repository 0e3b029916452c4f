"""Where runs are kept: one JSON file a run, named after the benchmark and its moment."""

from __future__ import annotations

import json
from dataclasses import Field, asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

RESULTS = Path(__file__).parent / "results"


class Report(Protocol):
    """A dataclass, whatever else is in it."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def taken_at(self) -> str: ...


def moment() -> str:
    """Now, in UTC, as a report tells it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def keep(name: str, report: Report, folder: Path) -> Path:
    """Write a report; the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{report.taken_at.replace(':', '')}.json"
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")
    return path
