"""What is kept of images: features on the device, pixels in host memory, each within its budget.

It knows digests and sizes, not where an image stands in a conversation. Features go from in use to
freeable, and are dropped, the least recently used first, only when room is needed. Pixels are what
features can be made from again; those that a turn waits for are pinned.
"""

from __future__ import annotations

from collections import Counter

from vlm_sessions.engine.types import PixelImage


class FeatureCache:
    """Accounting for the features that the runner holds, by digest. Not thread-safe."""

    def __init__(self, budget_bytes: int, bytes_per_token: int) -> None:
        self._budget = budget_bytes
        self._bytes_per_token = bytes_per_token
        self._sizes: dict[str, int] = {}
        """digest -> bytes"""
        self._num_users: Counter[str] = Counter()
        self._freeable: dict[str, None] = {}
        """Digests that nobody uses, the least recently used first."""
        self._num_bytes = 0
        self._num_freeable_bytes = 0
        self._dropped: dict[str, None] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def has_dropped(self) -> bool:
        """Whether the runner still has to be told of features that were dropped."""
        return bool(self._dropped)

    def users(self) -> dict[str, int]:
        """How often each digest in use was acquired, digest -> count."""
        return dict(self._num_users)

    def acquire(self, digest: str) -> None:
        """Use features that are cached; each call wants its ``release``."""
        if digest in self._freeable:
            del self._freeable[digest]
            self._num_freeable_bytes -= self._sizes[digest]
        self._num_users[digest] += 1

    def try_add(self, digest: str, num_tokens: int) -> bool:
        """Account for features about to be made, and acquire them.

        Drops freeable ones to make room. Returns ``False``, and changes nothing, when those in use
        leave no room. With none in use there is room for an image of any size.
        """
        assert digest not in self._sizes, "features are added once"
        size = num_tokens * self._bytes_per_token
        in_use = self._num_bytes - self._num_freeable_bytes
        if in_use and in_use + size > self._budget:
            return False
        self._make_room(size)
        self._sizes[digest] = size
        self._num_bytes += size
        self._num_users[digest] += 1
        return True

    def release(self, digest: str) -> None:
        """End one use. Features that nobody uses stay while there is room."""
        assert self._num_users[digest] > 0, "features are released as often as they were acquired"
        self._num_users[digest] -= 1
        if self._num_users[digest]:
            return
        del self._num_users[digest]
        self._freeable[digest] = None
        self._num_freeable_bytes += self._sizes[digest]
        self._make_room(0)

    def take_dropped(self) -> tuple[str, ...]:
        """The digests dropped since the last call, which the runner must free before it encodes."""
        dropped, self._dropped = tuple(self._dropped), {}
        return dropped

    def clear(self) -> None:
        """Drop all features that nobody uses."""
        while self._freeable:
            self._drop_oldest()

    def _make_room(self, size: int) -> None:
        while self._freeable and self._num_bytes + size > self._budget:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        digest = next(iter(self._freeable))
        del self._freeable[digest]
        size = self._sizes.pop(digest)
        self._num_bytes -= size
        self._num_freeable_bytes -= size
        self._dropped[digest] = None

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        assert self._num_bytes == sum(self._sizes.values())
        assert self._num_freeable_bytes == sum(self._sizes[d] for d in self._freeable)
        assert set(self._sizes) == set(self._freeable) | set(self._num_users)
        assert not set(self._freeable) & set(self._num_users)
        assert all(count > 0 for count in self._num_users.values())
        if self._num_bytes > self._budget:
            assert not self._freeable, "nothing freeable is kept beyond the budget"
            assert len(self._num_users) == 1, "only one image may be larger than the budget"


class PixelCache:
    """Preprocessed images by digest, the least recently used dropped first. Not thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._images: dict[str, PixelImage] = {}
        """In order of last use."""
        self._num_pins: Counter[str] = Counter()
        self._num_bytes = 0

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
        self._drop_unpinned(0)

    def _trim(self) -> None:
        if self._num_bytes > self._budget:
            self._drop_unpinned(self._budget)

    def _drop_unpinned(self, budget: int) -> None:
        for digest in [d for d in self._images if d not in self._num_pins]:
            if self._num_bytes <= budget:
                break
            self._num_bytes -= len(self._images.pop(digest).data)

    def check_integrity(self) -> None:
        """Assert the accounting's invariants."""
        assert self._num_bytes == sum(len(image.data) for image in self._images.values())
        assert all(count > 0 for count in self._num_pins.values())
        if self._num_bytes > self._budget:
            assert all(digest in self._num_pins for digest in self._images)
