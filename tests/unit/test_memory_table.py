"""What an engine says of its memory is a table on a terminal, and a line of JSON anywhere else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlm_sessions.serve.console import Console
from vlm_sessions.serve.memory_table import as_table

FIELDS = {
    "event": "memory",
    "device": "cuda:0",
    "kv_tokens": 200_000,
    "kv_sessions": 307,
    "weights_mib": 13_210,
    "kv_blocks_mib": 100_000,
    "activations_mib": None,
    "free_mib": 900,
    "capacity_mib": 143_771,
}
LINE = json.dumps(FIELDS).encode() + b"\n"


def test_the_table_has_a_row_for_each_size_and_says_what_the_blocks_hold() -> None:
    table = as_table(LINE)
    assert table is not None
    head, *rows = table.decode().splitlines()
    assert "cuda:0" in head
    assert "200,000 tokens: 307 sessions" in head
    assert [row.split()[-1] for row in rows] == ["13,210", "100,000", "measured", "900", "143,771"]


@pytest.mark.parametrize(
    "line",
    [b"Ready at http://x\n", b'{"event":"request","content":"memory"}\n', b'"memory"\n', b"memory"],
)
def test_other_lines_are_no_table(line: bytes) -> None:
    assert as_table(line) is None


async def test_a_console_shows_it_as_a_table_on_a_terminal_only(tmp_path: Path) -> None:
    shown = {}
    for kind in (os.openpty, os.pipe):
        ends = kind()
        reading, writing = ends if kind is os.pipe else (ends[0], ends[1])
        with _stderr_at(writing):
            console = Console(tmp_path / f"{kind.__name__}.sock", lambda _pid: None)
            await console.start()
            _, writer = await asyncio.open_unix_connection(str(tmp_path / f"{kind.__name__}.sock"))
            writer.write(LINE)
            writer.close()
            shown[kind.__name__] = await asyncio.to_thread(os.read, reading, 4096)
            await console.close()
        os.close(reading)
    assert shown["openpty"].startswith(b"Memory of cuda:0")
    assert json.loads(shown["pipe"]) == FIELDS


@contextmanager
def _stderr_at(descriptor: int) -> Iterator[None]:
    before = sys.__stderr__
    with os.fdopen(descriptor, "w") as stream:
        sys.__stderr__ = stream  # type: ignore[misc]
        try:
            yield
        finally:
            sys.__stderr__ = before  # type: ignore[misc]
