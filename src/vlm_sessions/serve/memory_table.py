"""The engine's log line of what memory went where, as a table for whoever looks at a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vlm_sessions.logs import MEMORY_EVENT

_ROWS: Mapping[str, str] = {
    "weights_mib": "weights",
    "kv_blocks_mib": "KV blocks",
    "features_mib": "image features",
    "activations_mib": "largest step",
    "pixels_mib": "pixels (host)",
    "host_kv_mib": "KV blocks (host)",
    "host_features_mib": "image features (host)",
    "free_mib": "free",
    "capacity_mib": "of",
}
"""Field of the line -> what its row is called, in this order."""


def as_table(line: bytes) -> bytes | None:
    """The table, each line ended; ``None`` for any other line of a log."""
    if MEMORY_EVENT.encode() not in line:
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("event") != MEMORY_EVENT:
        return None
    rows = [_row(name, fields[field]) for field, name in _ROWS.items() if field in fields]
    held = f"KV blocks hold {fields['kv_tokens']:,} tokens: {fields['kv_sessions']:,} sessions"
    head = f"Memory of {fields['device']} in MiB. {held} of one image each, sharing nothing."
    return "\n".join([head, *rows, ""]).encode()


def _row(name: str, size: int | None) -> str:
    return f"  {name:<22}{'not measured' if size is None else format(size, ','):>12}"
