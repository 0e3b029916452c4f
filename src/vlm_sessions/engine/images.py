"""Which image features and pixels each turn needs, holds and waits for.

Between the two caches of ``features.py``, which know no turns, and the scheduler, which does not
care how an image gets to the device.

A turn holds features only while it computes placeholders of that image, so turns never wait for
each other's images in a circle. Until then it may pin the pixels to make them from.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from vlm_sessions.engine.features import FeatureCache, PixelCache
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.sequence import Sequence
from vlm_sessions.engine.types import ImageSpan, PixelImage


class Encodes:
    """The images that one step runs through the vision tower, and how many more it may."""

    def __init__(self, num_left: int) -> None:
        self.images: list[PixelImage] = []
        self._num_left = num_left

    @property
    def has_room(self) -> bool:
        return self._num_left > 0

    def add(self, image: PixelImage) -> None:
        self.images.append(image)
        self._num_left -= 1

    def end(self) -> None:
        """Refuse all others: whoever comes later must not take room from who is waiting for it."""
        self._num_left = 0


class ImageLedger:
    """Who needs which image. Not thread-safe."""

    def __init__(self, limits: EngineLimits, feature_bytes_per_token: int) -> None:
        self.features = FeatureCache(limits.feature_bytes, feature_bytes_per_token)
        self.pixels = PixelCache(limits.pixel_bytes)
        self.num_encoded = 0
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
            if image.digest in self.features:
                continue
            if image.digest not in sequence.pinned:
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

    # --- while it runs --------------------------------------------------------------------------

    def secure(self, sequence: Sequence, end: int, encodes: Encodes) -> int:
        """Hold the features needed to compute up to ``end``; returns how far they reach."""
        while (image := sequence.unheld_image(end)) is not None:
            if not self._hold(sequence, image, encodes):
                return max(image.start, sequence.num_computed)
            sequence.next_unheld += 1
            self._unpin(sequence, image.digest)
        return end

    def lacks(self, sequence: Sequence) -> bool:
        """Whether the next image of a running turn was dropped, and its pixels too."""
        image = sequence.unheld_image(sequence.num_tokens)
        return image is not None and not (
            image.digest in self.features or image.digest in self.pixels
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
        for digest in sequence.awaited:
            waiting = self._awaited[digest]
            waiting.remove(sequence)
            if not waiting:
                del self._awaited[digest]
        sequence.awaited = set()
        for digest in tuple(sequence.pinned):
            self._unpin(sequence, digest)

    def clear(self) -> None:
        self.features.clear()
        self.pixels.clear()

    def _hold(self, sequence: Sequence, image: ImageSpan, encodes: Encodes) -> bool:
        if image.digest in self.features:
            self.features.acquire(image.digest)
            self.num_hits += 1
            return True
        pixels = self.pixels.get(image.digest)
        if pixels is None or not encodes.has_room:
            return False
        if not self.features.try_add(image.digest, image.length):
            encodes.end()
            return False
        encodes.add(pixels)
        sequence.num_encoded += 1
        self.num_encoded += 1
        return True

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
        held: dict[str, int] = {}
        for sequence in sequences:
            for image in sequence.held_images():
                held[image.digest] = held.get(image.digest, 0) + 1
            for digest in sequence.awaited:
                assert sequence in self._awaited[digest], "who waits is on the list"
                assert digest not in self.pixels, "nobody waits for what is there"
        assert held == self.features.users(), "features are held by running turns only"
        assert sum(map(len, self._awaited.values())) == sum(len(s.awaited) for s in sequences)
        assert self.pixels.num_pins == sum(len(s.pinned) for s in sequences)
