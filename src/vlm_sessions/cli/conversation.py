"""What ``ask`` and ``chat`` do, free of the command line: text in, text out, a client between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from vlm_sessions.client import (
    AnswerStream,
    Client,
    ImageNotReadable,
    InvalidRequest,
    Session,
)
from vlm_sessions.client.wire import Sampling

QUIT = "/quit"
SHOW = "/image "
UNDO = "/undo"
PROMPT = "> "


def ask(
    client: Client,
    pictures: Sequence[str],
    question: str,
    system: str | None,
    sampling: Sampling,
    *,
    out: TextIO,
) -> None:
    """One answer, piece by piece, without a session.

    Raises:
        ClientError: as ``client.stream``.
    """
    with client.stream(question, list(pictures), system=system, **sampling) as stream:
        _write(stream, out)


def chat(session: Session, sampling: Sampling, *, lines: TextIO, out: TextIO) -> None:
    """Answer ``lines`` until ``/quit`` or their end. ``/image PATH`` shows a picture with the next
    question, ``/undo`` takes back the last question and its answer. From a terminal each line is
    asked for, and Ctrl-C stops an answer, not the chat.

    Raises:
        ClientError: as ``session.stream``, but for questions that can be put right.
    """
    interactive = lines.isatty()
    pictures: list[str] = []
    while (line := _read(lines, out, interactive)) is not None:
        if line == QUIT:
            return
        if line.startswith(SHOW):
            pictures.append(line.removeprefix(SHOW).strip())
        elif line:
            try:
                if line == UNDO:
                    session.rewind()
                    if interactive:
                        out.write("(taken back)\n")
                    continue
                shown, pictures = pictures, []
                with session.stream(line, shown, **sampling) as stream:
                    _write(stream, out)
            except (ImageNotReadable, InvalidRequest) as exc:
                if not interactive:
                    raise
                out.write(f"! {exc}\n")
            except KeyboardInterrupt:
                if not interactive:
                    raise
                out.write(" (stopped)\n")


def _read(lines: TextIO, out: TextIO, interactive: bool) -> str | None:
    if interactive:
        out.write(PROMPT)
        out.flush()
    line = lines.readline()
    return line.strip() if line else None


def _write(stream: AnswerStream, out: TextIO) -> None:
    for piece in stream:
        out.write(piece)
        out.flush()
    out.write("\n")
    out.flush()
