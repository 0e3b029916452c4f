"""What a prompt would pay to get something back, in seconds: the figures that eviction goes by.

They come from what the engine's own steps have taken (``costs.py``), and as long as a figure was
not measured, from a guess: between two guesses it is their ratio that matters, and that differs
less from machine to machine than the figures themselves.
"""

from __future__ import annotations

from typing import Protocol

ATTENTION_DEPTH = 8192
"""A token this deep in its conversation costs twice what the first one does: its attention takes as
long as all the rest of it. Counting operations, that is 6,000 tokens for a text model of 12 layers
and a width of 768, and 25,000 for one of 32 layers and 4096; but attention is slower than its
operations say."""
GUESSED_PREFILL_SECONDS = 1e-4
"""A token, on a GPU or with a small model; on a CPU ten times as much."""
GUESSED_ENCODE_SECONDS = 1e-4
"""A token of an image: a vision tower costs about as much as the language model does for it."""
GUESSED_COPY_SECONDS = 1e-12
"""A byte from the host. Faster than any: what is not tried would never be measured."""


class MeasuredCosts(Protocol):
    """The part of ``costs.Costs`` that is needed here; ``None``: not measured yet."""

    def prefill_seconds(self, num_tokens: int) -> float | None: ...
    def encode_seconds(self, num_tokens: int) -> float | None: ...
    def copy_seconds(self, num_bytes: int) -> float | None: ...


class Prices:
    """Seconds to get back what is given up; guesses where nothing was measured."""

    def __init__(self, costs: MeasuredCosts | None = None) -> None:
        self._costs = costs

    def compute(self, num_tokens: int, depth: int) -> float:
        """The KV of tokens that begin ``depth`` tokens into their conversation."""
        seconds = None if self._costs is None else self._costs.prefill_seconds(num_tokens)
        if seconds is None:
            seconds = num_tokens * GUESSED_PREFILL_SECONDS
        return seconds * (1.0 + depth / ATTENTION_DEPTH)

    def encode(self, num_tokens: int) -> float:
        """The features of an image of so many tokens."""
        seconds = None if self._costs is None else self._costs.encode_seconds(num_tokens)
        return num_tokens * GUESSED_ENCODE_SECONDS if seconds is None else seconds

    def copy(self, num_bytes: int) -> float:
        """Bytes that are on the host."""
        seconds = None if self._costs is None else self._costs.copy_seconds(num_bytes)
        return num_bytes * GUESSED_COPY_SECONDS if seconds is None else seconds
