"""What a block's keys and values depend on, as bytes that can be named and compared.

The KV of a token depends on all tokens and images before it and on its position. Placeholders of
two images are the same token: without the image's digest, two pictures would share one KV. So:

- a full block's **hash** is chained. It covers the hash of the block before it, its own token ids,
  and, for each image that reaches into it, the image's digest and where in the image it begins;
- a block's **content**, full or not, is a symbol of fixed width for each token. Under one parent,
  two blocks have as many tokens in common as they have leading symbols in common.

    symbol    token id, 4 bytes | image, 16 bytes, zero for text

A symbol says which image it is a row of, not which row: that follows from those before it.

A **salt** sets the turns of one client apart from all others': the chain of hashes begins with it,
it stands in the symbols in place of zero, and images go by other names (``salted``). So turns of
different salts have no hash, no symbol and no image in common; without one, all is as above.
(vLLM's ``cache_salt`` does this for hashes.)
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from vlm_sessions.engine.types import ImageSpan

HASH_BYTES = 16
TOKEN_BYTES = 4
SYMBOL_BYTES = TOKEN_BYTES + HASH_BYTES


class TokenChain:
    """A list of tokens and images, which may grow at its end but never change, cut into blocks.

    ``images`` go by their ``salted`` names.
    """

    def __init__(
        self,
        tokens: Iterable[int],
        images: Sequence[ImageSpan],
        block_size: int,
        salt: str = "",
    ) -> None:
        self.tokens = list(tokens)
        self.hashes: list[bytes] = []
        """Of the full blocks."""
        self._images = images
        self._image_ends = [image.start + image.length for image in images]
        self._block_size = block_size
        self._root = _salt_mark(salt)
        self._pack = struct.Struct(f"<{block_size}I").pack
        for index in range(len(self.tokens) // block_size):
            self.hashes.append(self._hash(index))

    def append(self, token: int) -> None:
        self.tokens.append(token)
        if len(self.tokens) % self._block_size == 0:
            self.hashes.append(self._hash(len(self.hashes)))

    def content(self, index: int, end: int) -> bytes:
        """What block ``index`` holds of the first ``end`` tokens; empty: nothing."""
        start = index * self._block_size
        end = min(end, start + self._block_size)
        symbols = bytearray(_symbols(self.tokens[start:end], self._root))
        for image in self._images_in(start, end):
            mark = _image_mark(image)
            first, last = max(start, image.start), min(end, image.start + image.length)
            for place in range(first - start, last - start):
                at = place * SYMBOL_BYTES + TOKEN_BYTES
                symbols[at : at + HASH_BYTES] = mark
        return bytes(symbols)

    def _hash(self, index: int) -> bytes:
        start = index * self._block_size
        end = start + self._block_size
        hasher = blake2b(self.hashes[-1] if self.hashes else self._root, digest_size=HASH_BYTES)
        hasher.update(self._pack(*self.tokens[start:end]))
        for image in self._images_in(start, end):
            hasher.update(f"{image.digest}:{image.length}:{start - image.start};".encode())
        return hasher.digest()

    def _images_in(self, start: int, end: int) -> Iterator[ImageSpan]:
        for number in range(bisect_right(self._image_ends, start), len(self._images)):
            if self._images[number].start >= end:
                break
            yield self._images[number]


def salted(digest: str, salt: str) -> str:
    """What an image is called among the turns of one salt."""
    if not salt:
        return digest
    return blake2b(f"{digest}:{salt}".encode(), digest_size=32).hexdigest()


def count_tokens(content: bytes) -> int:
    return len(content) // SYMBOL_BYTES


def count_common(content: bytes, other: bytes) -> int:
    """How many leading tokens two contents have in common."""
    num_bytes = min(len(content), len(other))
    difference = int.from_bytes(content[:num_bytes]) ^ int.from_bytes(other[:num_bytes])
    return (num_bytes - -(-difference.bit_length() // 8)) // SYMBOL_BYTES


def _symbols(tokens: Sequence[int], mark: bytes) -> bytes:
    """Those of text, whose place for an image holds ``mark``."""
    return b"".join([token.to_bytes(TOKEN_BYTES) + mark for token in tokens])


def _salt_mark(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=HASH_BYTES).digest() if salt else bytes(HASH_BYTES)


def _image_mark(image: ImageSpan) -> bytes:
    """Of no other image, nor of the same one in another number of tokens."""
    name = f"{image.digest}:{image.length}".encode()
    return blake2b(name, digest_size=HASH_BYTES).digest()
