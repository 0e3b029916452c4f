"""How much is done, counted rather than timed: the same on any machine, however busy it is."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

PACKAGE = "vlm_sessions"


@dataclass
class Counter:
    """Lines of the product that were run, in any thread, and instructions of SQLite's machine: what
    goes through a list or a table shows in one of them. Counts while it is told to."""

    num_lines: int = 0
    num_instructions: int = 0
    is_counting: bool = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        self.num_lines = self.num_instructions = 0
        self.is_counting = True
        try:
            yield
        finally:
            self.is_counting = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Only threads that are started inside, and this one, are counted."""
        before = sys.gettrace()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(before)

    def connecting(
        self, connect: Callable[..., sqlite3.Connection]
    ) -> Callable[..., sqlite3.Connection]:
        """``connect``, with connections whose instructions are counted."""

        def counted(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **keywords)
            connection.set_progress_handler(self._note_instruction, 1)
            return connection

        return counted

    def _note_instruction(self) -> int:
        self.num_instructions += self.is_counting
        return 0

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if PACKAGE not in frame.f_code.co_filename:
            return None
        self.num_lines += self.is_counting and event == "line"
        return self._trace
