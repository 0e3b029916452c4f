"""Names for KV blocks: a block is named by everything that its keys and values depend on.

The KV of a token depends on all tokens and images before it and on its position. So a block's hash
is chained: it covers the hash of the block before it, its own token ids, and, for each image that
reaches into it, the image's digest and where in the image the block begins. Placeholders of two
images are the same token; without the digest, two pictures would share one KV.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

from vlm_sessions.engine.types import ImageSpan

HASH_BYTES = 16
_ROOT = bytes(HASH_BYTES)


class HashChain:
    """Hashes of the full blocks of one token list, which may grow at its end but never change."""

    def __init__(self, images: Sequence[ImageSpan], block_size: int) -> None:
        self.hashes: list[bytes] = []
        self._images = images
        self._block_size = block_size
        self._next_image = 0
        """The first image that ends beyond the last hashed block."""
        self._pack = struct.Struct(f"<{block_size}I").pack

    def extend(self, tokens: Sequence[int]) -> None:
        """Hash the blocks that became full; ``tokens`` is the whole list from position 0."""
        for index in range(len(self.hashes), len(tokens) // self._block_size):
            start = index * self._block_size
            end = start + self._block_size
            parent = self.hashes[-1] if self.hashes else _ROOT
            hasher = blake2b(parent, digest_size=HASH_BYTES)
            hasher.update(self._pack(*tokens[start:end]))
            for image in self._images_in(start, end):
                hasher.update(f"{image.digest}:{image.length}:{start - image.start};".encode())
            self.hashes.append(hasher.digest())

    def _images_in(self, start: int, end: int) -> Sequence[ImageSpan]:
        images = self._images
        while self._next_image < len(images):
            image = images[self._next_image]
            if image.start + image.length > start:
                break
            self._next_image += 1
        stop = self._next_image
        while stop < len(images) and images[stop].start < end:
            stop += 1
        return images[self._next_image : stop]


def hash_prefix(tokens: Sequence[int], images: Sequence[ImageSpan], block_size: int) -> list[bytes]:
    """The hashes of all full blocks of ``tokens``."""
    chain = HashChain(images, block_size)
    chain.extend(tokens)
    return chain.hashes
