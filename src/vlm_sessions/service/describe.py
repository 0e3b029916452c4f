"""A session as its client may see it: the record, less its bytes."""

from __future__ import annotations

from vlm_sessions.engine.types import CacheLocation
from vlm_sessions.protocol.schema import CacheState, Described, ImageInfo, TurnInfo
from vlm_sessions.service.work import lifetime_of
from vlm_sessions.sessions.session import Session


def image_infos(session: Session) -> tuple[ImageInfo, ...]:
    return tuple(
        ImageInfo(
            sha256=image.digest, width=image.width, height=image.height, tokens=image.num_tokens
        )
        for image in session.images
    )


def describe(
    session: Session, *, num_tokens: int, num_dropped_turns: int, location: CacheLocation
) -> Described:
    """``num_tokens``: of the conversation so far, of which ``location`` says where it is cached,
    without the ``num_dropped_turns`` that the model is not given."""
    return Described(
        lifetime=lifetime_of(session),
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        max_expires_at=session.max_expires_at,
        system=session.system,
        images=image_infos(session),
        turns=tuple(
            TurnInfo(
                prompt=turn.prompt,
                images=turn.digests,
                answer=turn.answer,
                finish_reason=turn.finish_reason,
            )
            for turn in session.turns
        ),
        tokens=num_tokens,
        dropped_turns=num_dropped_turns,
        caches=CacheState(
            kv_tokens=location.kv_tokens,
            host_kv_tokens=location.host_kv_tokens,
            feature_images=len(location.features),
            host_feature_images=len(location.host_features),
            pixel_images=len(location.pixels),
        ),
    )
