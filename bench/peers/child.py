"""The peer's side: ``serve(peer)`` answers the parent until it is gone."""

from __future__ import annotations

import base64
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence

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


class Peer(ABC):
    """An engine that holds conversations about a picture each, one thread in one process."""

    @abstractmethod
    def load(self, load: Load) -> Loaded: ...

    @abstractmethod
    def open(self, conversation: str, picture: bytes) -> None:
        """Take a JPEG; it is decoded and encoded when the first question comes."""

    @abstractmethod
    def ask(self, questions: Sequence[Question], num_tokens: int) -> list[Answer]:
        """Answer all at once, in their order, each with exactly ``num_tokens`` tokens, greedily."""

    @abstractmethod
    def forget(self, conversation: str) -> None: ...


def serve(peer: Peer) -> None:
    """Read requests from stdin and answer on stdout; all else that is written goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            request = from_json(json.loads(line))
            reply = _answer(peer, request)
        except Exception as exc:  # noqa: BLE001 - the parent reports it, whatever it is
            reply = Failure(f"{type(exc).__name__}: {exc}")
        replies.write(json.dumps(to_json(reply)) + "\n")


def _answer(peer: Peer, request: Request | Reply) -> Reply:
    match request:
        case Load():
            return peer.load(request)
        case Open():
            peer.open(request.conversation, base64.b64decode(request.picture))
        case Ask():
            return Answers(tuple(peer.ask(request.questions, request.num_tokens)))
        case Forget():
            peer.forget(request.conversation)
        case _:
            raise TypeError(f"{request} is no request")
    return Done()
