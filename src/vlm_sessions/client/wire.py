"""Requests as they travel, free of I/O: who carries them is a transport's business."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

from vlm_sessions.client.images import ImageArgument, wire_images


class Sampling(TypedDict, total=False):
    """How to answer. Whatever is left out is the service's default; greedy by default."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: str | Sequence[str]
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One call of ``/invocations``.

    Attributes:
        body: JSON.
        session_id: of the session that it belongs to.
        opens: whether it begins a session (SageMaker wants to know).
        streams: whether the reply is a stream of events.
        is_prompt: whether it makes the model work: never sent twice unless the caller asked.
        repeatable: whether doing it twice is as good as once. A 503 may also mean that the service
            broke off, and nobody knows what it did.
    """

    body: bytes
    session_id: str | None = None
    opens: bool = False
    streams: bool = False
    is_prompt: bool = False
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, errors of the service included (``status`` of 400 or more)."""

    status: int
    body: bytes
    retry_after: float | None = None
    session_id: str | None = None
    """The id that a header announced, without its lifetime."""


def open_session(images: ImageArgument, system: str | None) -> Request:
    """A session about ``images``.

    Raises:
        ImageNotReadable: see ``wire_images``.
    """
    body = {"type": "open_session", "images": wire_images(images), "system": system}
    return Request(_json(body), opens=True)


def prompt(
    session_id: str,
    text: str,
    images: ImageArgument,
    *,
    stream: bool,
    **sampling: Unpack[Sampling],
) -> Request:
    """A question in a session.

    Raises:
        ImageNotReadable: see ``wire_images``.
    """
    body = {"type": "prompt", "prompt": text, "images": wire_images(images), "stream": stream}
    return Request(
        _json(body | _sampling(sampling)), session_id=session_id, streams=stream, is_prompt=True
    )


def generate(
    text: str,
    images: ImageArgument,
    system: str | None,
    *,
    stream: bool,
    **sampling: Unpack[Sampling],
) -> Request:
    """A question without a session.

    Raises:
        ImageNotReadable: see ``wire_images``.
    """
    body = {
        "type": "generate",
        "prompt": text,
        "images": wire_images(images),
        "system": system,
        "stream": stream,
    }
    return Request(_json(body | _sampling(sampling)), streams=stream, is_prompt=True)


def cancel_prompt(session_id: str) -> Request:
    return Request(_json({"type": "cancel_prompt"}), session_id=session_id)


def describe_session(session_id: str) -> Request:
    return Request(_json({"type": "describe_session"}), session_id=session_id)


def fork_session(session_id: str) -> Request:
    return Request(_json({"type": "fork_session"}), session_id=session_id)


def rewind_session(session_id: str, turns: int) -> Request:
    body = _json({"type": "rewind_session", "turns": turns})
    return Request(body, session_id=session_id, repeatable=False)


def close_session(session_id: str) -> Request:
    return Request(_json({"type": "close_session"}), session_id=session_id)


def session_id_of_header(value: str | None) -> str | None:
    """The id in ``<id>; Expires=<time>``."""
    return value.partition(";")[0].strip() or None if value else None


def _sampling(sampling: Sampling) -> dict[str, object]:
    options: dict[str, object] = {**sampling}
    if "stop" in sampling:
        stop = sampling["stop"]
        options["stop"] = [stop] if isinstance(stop, str) else list(stop)
    return options


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()
