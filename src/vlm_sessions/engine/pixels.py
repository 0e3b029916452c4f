"""Pixel tensors in the engine's memory: what features can be made from again."""

from __future__ import annotations

from collections import Counter

from vlm_sessions.engine.types import PixelImage


class PixelCache:
    """Preprocessed images by digest, the least recently used dropped first. Not thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._images: dict[str, PixelImage] = {}
        """In order of last use."""
        self._num_pins: Counter[str] = Counter()
        self._num_bytes = 0
        self.num_hits = 0
        """Uses of pixels that were there before anybody asked for them."""
        self.num_evicted = 0

    @property
    def budget_bytes(self) -> int:
        return self._budget

    def __contains__(self, digest: str) -> bool:
        return digest in self._images

    def __len__(self) -> int:
        return len(self._images)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def num_pins(self) -> int:
        return sum(self._num_pins.values())

    def put(self, image: PixelImage) -> None:
        """Keep an image as long as there is room or it is pinned."""
        if image.digest in self._images:
            return
        self._images[image.digest] = image
        self._num_bytes += len(image.data)
        self._trim()

    def get(self, digest: str) -> PixelImage | None:
        image = self._images.pop(digest, None)
        if image is not None:
            self._images[digest] = image
        return image

    def pin(self, digest: str) -> None:
        """Keep this image from when it arrives until ``unpin``, whatever the budget."""
        self._num_pins[digest] += 1

    def unpin(self, digest: str) -> None:
        assert self._num_pins[digest] > 0, "pixels are unpinned as often as they were pinned"
        self._num_pins[digest] -= 1
        if not self._num_pins[digest]:
            del self._num_pins[digest]
            self._trim()

    def clear(self) -> None:
        """Drop all that is not pinned."""
        num_evicted = self.num_evicted
        self._drop_unpinned(0)
        self.num_evicted = num_evicted

    def _trim(self) -> None:
        if self._num_bytes > self._budget:
            self._drop_unpinned(self._budget)

    def _drop_unpinned(self, budget: int) -> None:
        for digest in [d for d in self._images if d not in self._num_pins]:
            if self._num_bytes <= budget:
                break
            self._num_bytes -= len(self._images.pop(digest).data)
            self.num_evicted += 1

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        assert self._num_bytes == sum(len(image.data) for image in self._images.values())
        assert all(count > 0 for count in self._num_pins.values())
        if self._num_bytes > self._budget:
            assert all(digest in self._num_pins for digest in self._images)
