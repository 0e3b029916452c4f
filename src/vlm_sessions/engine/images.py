"""Which image features and pixels each turn needs, holds and waits for.

Between the two caches of ``features.py``, which know no turns, and the scheduler, which does not
care how an image gets to the device.

A turn holds features only while it computes placeholders of that image, so turns never wait for
each other's images in a circle. Until then it may pin the pixels to make them from.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from vlm_sessions.engine.encoding import Encoding
from vlm_sessions.engine.features import FeatureCache
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.pixels import PixelCache
from vlm_sessions.engine.sequence import Sequence
from vlm_sessions.engine.types import ImageSpan, PixelImage


class ImageLedger:
    """Who needs which image. Not thread-safe."""

    def __init__(self, limits: EngineLimits, features: FeatureCache) -> None:
        self.features = features
        self.pixels = PixelCache(limits.pixel_bytes)
        self.encoding = Encoding(self.features, self.pixels, limits.max_images_encoding)
        self.num_hits = 0
        """Uses of features that were there already."""
        self._awaited: dict[str, list[Sequence]] = {}
        """digest -> the turns parked for it"""

    # --- before a turn is admitted --------------------------------------------------------------

    def await_missing(self, sequence: Sequence, num_cached: int) -> tuple[str, ...]:
        """Digests that must arrive before the turn can go beyond its first ``num_cached`` tokens.

        Its pixels, there or to come, are pinned until its features are held.
        """
        missing: dict[str, None] = {}
        for image in sequence.images_needed(num_cached):
            if image.digest in self.features or self.features.is_stored(image.digest):
                continue
            if image.digest not in sequence.pinned:
                self.pixels.num_hits += image.digest in self.pixels
                sequence.pinned.add(image.digest)
                self.pixels.pin(image.digest)
            if image.digest not in self.pixels:
                missing[image.digest] = None
        for digest in missing:
            self._awaited.setdefault(digest, []).append(sequence)
        sequence.awaited = set(missing)
        return tuple(missing)

    def put(self, image: PixelImage) -> list[Sequence]:
        """Keep pixels that arrived; returns the turns that now wait for no image any more."""
        self.pixels.put(image)
        complete = []
        for sequence in self._awaited.pop(image.digest, ()):
            sequence.awaited.discard(image.digest)
            if not sequence.awaited:
                complete.append(sequence)
        return complete

    def park_if_unready(self, sequence: Sequence, num_cached: int) -> bool:
        """Let a turn wait for features, if those that it needs first are not there but under way,
        or can be made from pixels that are kept for it; whether it does."""
        needed = sequence.images_needed(num_cached)
        if not needed or self._is_at_hand(needed[0].digest):
            return False
        if needed[0].digest not in self.features and needed[0].digest not in sequence.pinned:
            return False
        self.encoding.park(sequence, needed)
        return True

    # --- while it runs --------------------------------------------------------------------------

    def secure(self, sequence: Sequence, end: int) -> int:
        """Hold the features needed to compute up to ``end``; returns how far they reach. The image
        after them is begun ahead."""
        while (image := sequence.unheld_image(end)) is not None:
            if not self._hold(sequence, image):
                end = max(image.start, sequence.num_computed)
                break
            sequence.next_unheld += 1
            self._unpin(sequence, image.digest)
        following = sequence.unheld_image(sequence.num_tokens)
        if following is not None:
            self.encoding.begin(sequence, following)
        return end

    def lacks(self, sequence: Sequence) -> bool:
        """Whether the next image of a running turn was dropped, and its pixels too."""
        image = sequence.unheld_image(sequence.num_tokens)
        return image is not None and not (
            image.digest in self.features
            or self.features.is_stored(image.digest)
            or image.digest in self.pixels
        )

    def release_computed(self, sequence: Sequence) -> None:
        """Give up features whose placeholders are all computed."""
        self._release(sequence.release_images())

    def release_held(self, sequence: Sequence) -> None:
        """Give up all features of a turn that loses its blocks."""
        self._release(sequence.held_images())
        sequence.next_unheld = sequence.next_image

    def forget(self, sequence: Sequence) -> None:
        """Give up everything that was kept for a turn that is over."""
        self.release_held(sequence)
        self.encoding.forget(sequence)
        for digest in sequence.awaited:
            waiting = self._awaited[digest]
            waiting.remove(sequence)
            if not waiting:
                del self._awaited[digest]
        sequence.awaited = set()
        for digest in sorted(sequence.pinned):
            self._unpin(sequence, digest)

    def clear(self) -> None:
        self.features.clear()
        self.pixels.clear()

    def _hold(self, sequence: Sequence, image: ImageSpan) -> bool:
        if self.features.is_stored(image.digest):
            return self.features.try_restore(image.digest)
        if not self.encoding.is_ready(image.digest):
            return False
        self.features.acquire(image.digest)
        if image.digest in sequence.encoded_for:
            sequence.encoded_for.remove(image.digest)
        else:
            self.num_hits += 1
        return True

    def _is_at_hand(self, digest: str) -> bool:
        """Whether features are on the device, or come there in the step that uses them."""
        return self.encoding.is_ready(digest) or self.features.is_stored(digest)

    def _unpin(self, sequence: Sequence, digest: str) -> None:
        if digest in sequence.pinned:
            sequence.pinned.remove(digest)
            self.pixels.unpin(digest)

    def _release(self, images: SequenceOf[ImageSpan]) -> None:
        for image in images:
            self.features.release(image.digest)

    def check_integrity(self, sequences: SequenceOf[Sequence]) -> None:
        """Assert that what is held and awaited is what these turns, all there are, say."""
        self.features.check_integrity()
        self.pixels.check_integrity()
        self.encoding.check_integrity()
        held = self.encoding.held()
        for sequence in sequences:
            for image in sequence.held_images():
                held[image.digest] = held.get(image.digest, 0) + 1
            for digest in sequence.awaited:
                assert sequence in self._awaited[digest], "who waits is on the list"
                assert digest not in self.pixels, "nobody waits for what is there"
        assert held == self.features.users(), "features are held by running turns and the encoder"
        assert sum(map(len, self._awaited.values())) == sum(len(s.awaited) for s in sequences)
        assert self.pixels.num_pins == sum(len(s.pinned) for s in sequences)
