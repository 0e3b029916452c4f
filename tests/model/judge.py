"""Whether an answer is the one that plain greedy decoding gives, found by one forward pass.

``generate`` takes the likeliest token after each prefix. So a finished answer is right exactly when
each of its tokens is the likeliest one after those before it; one pass over conversation and answer
tells all of them, where ``generate`` needs a pass for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tests.model.reference import Reference
from vlm_sessions.engine.types import FinishReason, PixelImage


class Judge:
    """Compares answers with a checkpoint's own greedy ones; remembers what it has been asked."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        config = reference.model.config
        self._image_token: int = config.image_token_id
        self._eos: int = reference.model.generation_config.eos_token_id
        self._likeliest: dict[tuple[object, ...], list[int]] = {}

    def check(
        self,
        tokens: Sequence[int],
        pixels: Sequence[PixelImage],
        answer: Sequence[int],
        reason: FinishReason,
        *,
        ignore_eos: bool = False,
    ) -> None:
        """Assert that ``answer`` follows ``tokens``, and that it ends where it should.

        Args:
            answer: without the token that ended it.
            reason: ``STOP`` when an end-of-sequence token did.
        """
        never = (self._image_token, self._eos) if ignore_eos else (self._image_token,)
        expected = self._after(tokens, pixels, answer, never)
        said = [*answer, self._eos] if reason is FinishReason.STOP else list(answer)
        assert said == expected[: len(said)], f"after {len(tokens)} tokens"

    def _after(
        self,
        tokens: Sequence[int],
        pixels: Sequence[PixelImage],
        answer: Sequence[int],
        never: Sequence[int],
    ) -> list[int]:
        """The likeliest token after the conversation, and after each token of the answer."""
        key = (tuple(tokens), tuple(image.digest for image in pixels), tuple(answer), tuple(never))
        if key not in self._likeliest:
            logits = self._reference.logits([*tokens, *answer], pixels)[len(tokens) - 1 :].clone()
            logits[:, never] = -torch.inf
            self._likeliest[key] = logits.argmax(dim=-1).tolist()
        return self._likeliest[key]
