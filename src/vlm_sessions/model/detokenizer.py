"""Token ids to text as they come.

A token may be half a character, and what a token looks like may depend on the one before it (a
leading space, for instance). So each new token is decoded together with the few before it, and
only what became certain is given out. However a run of tokens is cut, the pieces joined are what
decoding all of them at once gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """``processing.Detokenizer`` for one answer.

    Args:
        decode: token ids -> text; must leave nothing but ``skipped`` out.
        skipped: ids without text of their own (special tokens).
        byte_ids: ids that stand for single bytes of a fallback for unknown characters. Whether a
            run of them is text is known only when it ends, so it is held back until then.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        skipped: Collection[int],
        byte_ids: Collection[int],
    ) -> None:
        self._decode = decode
        self._skipped = skipped
        self._byte_ids = byte_ids
        self._tokens: list[int] = []
        # tokens[context:done] were given out last, and are decoded again with those after them.
        self._context = 0
        self._done = 0

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        if token in self._skipped:
            return ""
        self._tokens.append(token)
        if token in self._byte_ids:
            return ""
        text = self._new_text()
        if text.endswith(UNFINISHED):
            return ""
        self._advance()
        return text

    def flush(self) -> str:
        """What was held back: with a broken character at the end, its replacement."""
        text = self._new_text()
        self._advance()
        return text

    def _new_text(self) -> str:
        known = self._decode(self._tokens[self._context : self._done])
        return self._decode(self._tokens[self._context :])[len(known) :]

    def _advance(self) -> None:
        self._context, self._done = self._done, len(self._tokens)
