"""The parent's side: a peer as a child process in its own environment."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from bench.peers.protocol import (
    Answer,
    Answers,
    Ask,
    Done,
    Failure,
    Forget,
    Load,
    Loaded,
    Open,
    Question,
    Reply,
    Request,
    from_json,
    to_json,
)

ROOT = Path(__file__).parents[2]
LOAD_SECONDS = 1200.0  # some compile
ASK_SECONDS = 1200.0  # on a busy machine, eight pictures at once take long
NUM_LINES_TOLD = 8
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

ReplyT = TypeVar("ReplyT", bound=Reply)


class PeerFailed(Exception):
    """A peer died, took too long, or answered with an error; the message says what it said."""


class PeerProcess:
    """A running peer. Leave its context to end it.

    Args:
        command: what to run, from the repository's root.
        environ: beside ours, and over it.
        core: number of the core to stay on; None: any.
        log: file that takes all that the peer writes.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environ: Mapping[str, str],
        core: int | None,
        log: Path,
    ) -> None:
        pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
        self._log = log
        self._log_file = log.open("w")
        self._process = subprocess.Popen(
            [*pinned, *(str(part) for part in command)],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            text=True,
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log_file):
            _close(stream)

    def load(self, load: Load) -> Loaded:
        return self._exchange(load, Loaded, LOAD_SECONDS)

    def open(self, conversation: str, picture: bytes) -> None:
        self._exchange(Open(conversation, base64.b64encode(picture).decode()), Done, ASK_SECONDS)

    def ask(self, questions: Sequence[Question], num_tokens: int) -> tuple[Answer, ...]:
        return self._exchange(Ask(tuple(questions), num_tokens), Answers, ASK_SECONDS).answers

    def forget(self, conversation: str) -> None:
        self._exchange(Forget(conversation), Done, ASK_SECONDS)

    def _exchange(self, request: Request, kind: type[ReplyT], seconds: float) -> ReplyT:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A line cannot be waited for with a deadline: at the deadline the peer goes, and its line.
        deadline = threading.Timer(seconds, self._process.kill)
        deadline.start()
        try:
            self._process.stdin.write(json.dumps(to_json(request)) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            deadline.cancel()
        if not line:
            raise PeerFailed(f"It ended, or took longer than {seconds:.0f} s. {self._last_words()}")
        reply = from_json(json.loads(line))
        if isinstance(reply, Failure):
            raise PeerFailed(reply.message)
        if not isinstance(reply, kind):
            raise PeerFailed(f"It answered {type(request).__name__} with {type(reply).__name__}.")
        return reply

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line]
        return " / ".join(lines[-NUM_LINES_TOLD:])


def _close(stream: IO[str] | None) -> None:
    assert stream is not None
    with contextlib.suppress(BrokenPipeError):  # what was never sent is of no use any more
        stream.close()
