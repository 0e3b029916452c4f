"""Stop strings: cut an answer before the first of them, while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopFilter:
    """Passes text on as soon as it cannot be the beginning of a stop string any more."""

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would match everywhere"
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """Whether a stop string was met; what comes after it is swallowed."""

    def push(self, text: str) -> str:
        """Take more text, give what is certain."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        certain_length = len(self._held) - self._num_undecided()
        certain, self._held = self._held[:certain_length], self._held[certain_length:]
        return certain

    def flush(self) -> str:
        """What was held back, once the answer is over."""
        certain, self._held = self._held, ""
        return certain

    def _num_undecided(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


def num_tokens_within(
    tokens: Sequence[int], kept: str, decode: Callable[[Sequence[int]], str]
) -> int:
    """How many leading ``tokens`` say nothing beyond the text ``kept``.

    They are what the model is shown as its answer in later turns: it must not see a stop string
    that its client never saw.
    """
    num = len(tokens)
    while num and not kept.startswith(decode(tokens[:num])):
        num -= 1
    return num
