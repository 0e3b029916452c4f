"""What is tried out when a model is loaded, so that no client's turn finds it out.

Probe pictures go through the image processor, probe conversations through tokenizer and template:
turn by turn, as sessions grow, and whole, as the checkpoint's own Hugging Face processor has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL.Image import new as new_image

from vlm_sessions.errors import ConfigError, InvalidField, ReservedText
from vlm_sessions.model.checkpoint import Checkpoint
from vlm_sessions.processing import ImageRef, Message, Processor

QUESTIONS = ("What is this?", " And that? ", "Why")
ANSWERS = ("A cat.", "a dog", "")


def check_pixels(processor: Processor, checkpoint: Checkpoint, images: Any) -> None:
    """Prepare probe pictures.

    Args:
        images: the checkpoint's image processor.

    Raises:
        ConfigError: the vision tower could not take them.
    """
    side, tiling = checkpoint.image_size, checkpoint.tiling
    sizes = [(40, 30)]
    if tiling is not None:
        resolutions = getattr(images, "image_grid_pinpoints", None) or []
        if tuple(map(tuple, resolutions)) != tiling.resolutions:
            raise ConfigError(
                f"The image processor of {checkpoint.path} cuts images for other resolutions than "
                "its config.json states: image_grid_pinpoints differ."
            )
        sizes.append((3 * side, side))
    for width, height in sizes:
        shape = processor.pixels(new_image("RGB", (width, height)), "probe").shape
        expected: tuple[int, ...] = (3, side, side)
        if tiling is not None:
            expected = (tiling.num_tiles(width, height), *expected)
        if shape != expected:
            raise ConfigError(
                f"The image processor of {checkpoint.path} makes images of the shape {shape}, but "
                f"its vision tower takes {expected}."
            )


def check_turns(
    processor: Processor, checkpoint: Checkpoint, roundtrip: Callable[[str], str]
) -> None:
    """Hold probe conversations.

    Args:
        roundtrip: a text as it comes out of the tokenizer again.

    Raises:
        ConfigError: the token ids differ, so that a session could not be continued exactly.
    """
    hold = partial(_check_conversation, processor, checkpoint, roundtrip)
    image = ImageRef("probe", 2)
    for first, later in (((), ()), ((image,), ()), ((image, image), (image,))):
        try:
            hold(system=None, first_images=first, later_images=later)
        except (InvalidField, ReservedText) as exc:
            raise ConfigError(f"{checkpoint.path}: {exc.message}") from exc
    # A template may refuse a system text; then so do we, when one is sent.
    with contextlib.suppress(InvalidField):
        hold(system="Be brief.", first_images=(image,), later_images=())


def _check_conversation(
    processor: Processor,
    checkpoint: Checkpoint,
    roundtrip: Callable[[str], str],
    *,
    system: str | None,
    first_images: tuple[ImageRef, ...],
    later_images: tuple[ImageRef, ...],
) -> None:
    messages = [Message("system", system)] if system else []
    earlier: tuple[int, ...] = ()
    said = ""
    for turn, question in enumerate(QUESTIONS):
        images = later_images if turn else first_images
        messages.append(Message("user", question, images))
        whole = processor.encode_conversation(messages).tokens
        segment = processor.encode_turn(
            first=not turn, system=system, text=question, images=images
        ).tokens
        if not _continues(processor, whole, earlier, said, segment):
            raise ConfigError(
                f"The chat template of {checkpoint.path} cannot serve sessions: turn {turn + 1} of "
                "a probe conversation, built piece by piece, does not have the tokens of the whole "
                "conversation. It must render each message by itself and leave its text as it is."
            )
        earlier = whole
        said = roundtrip(ANSWERS[turn])
        messages.append(Message("assistant", ANSWERS[turn]))


def _continues(
    processor: Processor,
    whole: tuple[int, ...],
    earlier: tuple[int, ...],
    said: str,
    segment: tuple[int, ...],
) -> bool:
    """Whether ``whole`` is ``earlier``, the tokens of the answer ``said``, and ``segment``.

    What ends an answer may be text (LLaVA-NeXT's on Mistral), of which the tokenizer makes one
    token with the answer's last character. The model never says such a token: there, the first
    token of ``segment`` is looked at as text only.
    """
    if whole[: len(earlier)] != earlier:
        return False
    for num_joined in (0, 1) if earlier else (0,):
        rest = segment[num_joined:]
        answer = whole[len(earlier) : len(whole) - len(rest)]
        if (*earlier, *answer, *rest) == whole:
            expected = said + processor.decode(segment[:num_joined]).strip()
            if processor.decode(answer).strip() == expected.strip():
                return True
    return False
