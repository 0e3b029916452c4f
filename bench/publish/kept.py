"""Runs as they were kept: the newest of each benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.keep import RESULTS

ROOT = Path(__file__).parents[2]
_MOMENT_GLOB = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """One run, and the file that it is from."""

    path: Path
    data: Mapping[str, Any]

    @property
    def link(self) -> str:
        """Markdown to the file, from a page in docs/."""
        return f"[{self.path.name}](../bench/results/{self.path.name})"

    @property
    def conditions(self) -> str:
        """When and on what it ran, in a line."""
        machine = self.data["machine"]
        parts = [
            self.data["taken_at"],
            f"{machine['processor']}, {machine['num_cores']} cores, {machine['memory_gib']:g} GiB",
            f"torch {machine['versions']['torch']}",
        ]
        if "load_before" in self.data:
            parts.append(
                f"load {self.data['load_before']:g} before, {self.data['load_after']:g} after"
            )
        return f"{'; '.join(parts)}; {self.link}"


def newest(name: str, folder: Path = RESULTS) -> Kept | None:
    """The last run of a benchmark, by its moment; ``None`` where none was kept."""
    paths = sorted(folder.glob(f"{name}-{_MOMENT_GLOB}"))
    if not paths:
        return None
    return Kept(paths[-1], json.loads(paths[-1].read_text()))
