"""From replies to results and exceptions, free of I/O."""

from __future__ import annotations

from http import HTTPStatus

from vlm_sessions.client.errors import ProtocolError, ServiceError, service_error
from vlm_sessions.client.fields import Fields
from vlm_sessions.client.types import (
    Answer,
    CacheState,
    Description,
    ImageInfo,
    Opened,
    Timing,
    TurnInfo,
    Usage,
)
from vlm_sessions.client.wire import Reply

MAX_QUOTED_CHARS = 200


def raise_for_error(reply: Reply) -> None:
    """Let good replies pass.

    Raises:
        ServiceError: the reply's status is 400 or more.
    """
    if reply.status >= HTTPStatus.BAD_REQUEST:
        raise error_of(reply)


def error_of(reply: Reply) -> ServiceError:
    """The exception for a reply that is an error, ours or that of something in between."""
    try:
        error = Fields.parse(reply.body).object("error")
        code, message = error.text("code"), error.text("message")
    except ProtocolError:
        code, message = "unknown", _quoted(reply)
    return service_error(reply.status, code, message, reply.retry_after)


def _quoted(reply: Reply) -> str:
    """A proxy's own page, or nothing: say what came rather than hide it."""
    text = " ".join(reply.body.decode(errors="replace").split())
    return text[:MAX_QUOTED_CHARS] or "an error without a message; is this URL the service's?"


def opened(reply: Reply) -> Opened:
    fields = _fields(reply)
    return Opened(
        session_id=reply.session_id or fields.text("session_id"),
        expires_at=fields.time("expires_at"),
        images=fields.objects("images", image_info),
    )


def answer(reply: Reply) -> Answer:
    return answer_of(_fields(reply))


def cancelled(reply: Reply) -> bool:
    """Whether something was running."""
    return _fields(reply).flag("cancelled")


def rewound(reply: Reply) -> int:
    """How many turns are left."""
    return _fields(reply).integer("turns")


def closed(reply: Reply) -> None:
    raise_for_error(reply)


def description(reply: Reply) -> Description:
    fields = _fields(reply)
    caches = fields.object("caches")
    return Description(
        session_id=fields.text("session_id"),
        created_at=fields.time("created_at"),
        last_used_at=fields.time("last_used_at"),
        expires_at=fields.time("expires_at"),
        max_expires_at=fields.time("max_expires_at"),
        system=fields.text("system") if "system" in fields else None,
        images=fields.objects("images", image_info),
        turns=fields.objects("turns", turn_info),
        tokens=fields.integer("tokens"),
        dropped_turns=fields.integer("dropped_turns") if "dropped_turns" in fields else 0,
        caches=CacheState(
            kv_tokens=caches.integer("kv_tokens"),
            host_kv_tokens=caches.integer("host_kv_tokens"),
            feature_images=caches.integer("feature_images"),
            host_feature_images=caches.integer("host_feature_images"),
            pixel_images=caches.integer("pixel_images"),
        ),
    )


def answer_of(fields: Fields) -> Answer:
    usage, timing = fields.object("usage"), fields.object("timing")
    return Answer(
        text=fields.text("text"),
        finish_reason=fields.text("finish_reason"),
        usage=Usage(
            prompt_tokens=usage.integer("prompt_tokens"),
            cached_tokens=usage.integer("cached_tokens"),
            completion_tokens=usage.integer("completion_tokens"),
            dropped_turns=usage.integer("dropped_turns") if "dropped_turns" in usage else 0,
        ),
        timing=Timing(
            queue_ms=timing.number("queue_ms"),
            ttft_ms=timing.number("ttft_ms") if "ttft_ms" in timing else None,
            total_ms=timing.number("total_ms"),
        ),
    )


def image_info(fields: Fields) -> ImageInfo:
    return ImageInfo(
        sha256=fields.text("sha256"),
        width=fields.integer("width"),
        height=fields.integer("height"),
        tokens=fields.integer("tokens"),
    )


def turn_info(fields: Fields) -> TurnInfo:
    return TurnInfo(
        prompt=fields.text("prompt"),
        images=fields.texts("images"),
        answer=fields.text("answer"),
        finish_reason=fields.text("finish_reason"),
    )


def _fields(reply: Reply) -> Fields:
    raise_for_error(reply)
    return Fields.parse(reply.body)
