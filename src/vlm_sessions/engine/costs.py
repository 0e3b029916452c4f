"""What the device's work costs, in seconds, as the steps themselves measure it.

Two readers: ``pacing.py`` asks how many tokens of prompts a step may compute beside those that
decode, and the caches ask what it would take to compute again what they are about to drop.

Nothing is known at the start, and little is ever certain: a machine sleeps, a neighbour is noisy, a
first step warms up. So every figure comes from the last few samples only, and is a median, or a
ratio of sums in which no sample counts for more than a few times what was expected of it.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

from vlm_sessions.engine.types import Plan

NUM_SAMPLES = 15
"""Of which a median is taken."""
NUM_MIXED_SAMPLES = 8
MIN_BULK_TOKENS = 16
"""A step of fewer tokens measures how long the weights take to be read, not what a token costs."""
MAX_MIXED_RATIO = 4.0
"""A step in which prompts go along counts for at most so many times a step without them."""


class Typical:
    """The median of a quantity's last samples; the lower one of two in the middle."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=NUM_SAMPLES)
        self._median: float | None = None

    def add(self, sample: float) -> None:
        self._samples.append(max(sample, 0.0))
        self._median = None

    @property
    def value(self) -> float | None:
        """``None``: there is no sample yet."""
        if self._median is None and self._samples:  # most samples come without being asked about
            self._median = median_low(self._samples)
        return self._median


class Costs:
    """Estimates of one engine's work. Not thread-safe. All figures are in seconds; those that
    nothing has been measured for are ``None``."""

    def __init__(self) -> None:
        self._prefill = Typical()
        self._encode = Typical()
        self._copy = Typical()
        self._decode: dict[tuple[bool, int], Typical] = {}
        """(beside an encode, size class of the batch) -> a step that only decodes"""
        self._mixed: deque[tuple[float, int]] = deque(maxlen=NUM_MIXED_SAMPLES)
        """What tokens of prompts added to steps that decode, and how many they were."""

    # --- asked ----------------------------------------------------------------------------------

    def prefill_seconds(self, num_tokens: int) -> float | None:
        """Of computing so many tokens of a prompt, with nothing else to do."""
        return None if self._prefill.value is None else num_tokens * self._prefill.value

    def encode_seconds(self, num_tokens: int) -> float | None:
        """Of running an image of so many tokens through the vision tower."""
        return None if self._encode.value is None else num_tokens * self._encode.value

    def copy_seconds(self, num_bytes: int) -> float | None:
        """Of bringing so many bytes from the host."""
        return None if self._copy.value is None else num_bytes * self._copy.value

    def decode_seconds(self, num_turns: int, *, beside_encoding: bool) -> float | None:
        """Of a step in which so many turns decode and no prompt is computed.

        When no batch of about this size was seen, that of the nearest one, the smaller rather than
        the larger: it makes prompts wait, not answers.
        """
        wanted = _size_class(num_turns)
        sizes = [size for beside, size in self._decode if beside == beside_encoding]
        if not sizes:
            return None
        nearest = min(sizes, key=lambda size: (abs(size - wanted), size))
        return self._decode[beside_encoding, nearest].value

    def mixed_token_seconds(self) -> float | None:
        """Of one more token of a prompt in a step that decodes; from pure prompts as long as there
        was no such step."""
        num_tokens = sum(count for _, count in self._mixed)
        if not num_tokens:
            return self._prefill.value
        return sum(seconds for seconds, _ in self._mixed) / num_tokens

    def most_mixed_tokens(self) -> int:
        """Tokens of prompts in the largest of the last steps that decoded as well."""
        return max((count for _, count in self._mixed), default=0)

    # --- told -----------------------------------------------------------------------------------

    def note_plan(self, plan: Plan, seconds: float, *, beside_encoding: bool) -> None:
        """A plan was carried out; moves and copies in it are not told apart."""
        num_decodes = sum(span.draw is not None and span.draw.index > 0 for span in plan.spans)
        num_tokens = sum(len(span.tokens) for span in plan.spans)
        self.note_step(
            seconds,
            num_decodes=num_decodes,
            num_prompt_tokens=num_tokens - num_decodes,
            beside_encoding=beside_encoding,
        )

    def note_step(
        self, seconds: float, *, num_decodes: int, num_prompt_tokens: int, beside_encoding: bool
    ) -> None:
        """A step computed one token for each of ``num_decodes`` turns, and tokens of prompts."""
        if not num_decodes:
            if num_prompt_tokens >= MIN_BULK_TOKENS and not beside_encoding:
                self._prefill.add(seconds / num_prompt_tokens)
        elif not num_prompt_tokens:
            key = beside_encoding, _size_class(num_decodes)
            self._decode.setdefault(key, Typical()).add(seconds)
        else:
            alone = self.decode_seconds(num_decodes, beside_encoding=beside_encoding)
            if alone is not None:
                added = min(seconds, alone * MAX_MIXED_RATIO) - alone
                self._mixed.append((max(added, 0.0), num_prompt_tokens))

    def note_encode(self, seconds: float, *, num_tokens: int) -> None:
        """The vision tower took so long for images of so many tokens."""
        self._encode.add(seconds / num_tokens)

    def note_copy(self, seconds: float, *, num_bytes: int) -> None:
        """So many bytes came from the host in that time."""
        self._copy.add(seconds / num_bytes)


def _size_class(num_turns: int) -> int:
    """Batches up to twice the size of another cost about as much."""
    return num_turns.bit_length()
