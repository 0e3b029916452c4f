"""PNGs put together by hand: every depth, transparent colours, interlacing, any chunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
AFTER_IHDR = 33
"""Where chunks can be put in between."""

# Adam7: first column and row of each pass, and the steps between them.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)

Pixels = Sequence[Sequence[Sequence[int]]]
"""Rows of pixels of samples."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    pixels: Pixels, *, depth: int, kind: int, extra: bytes = b"", interlaced: bool = False
) -> bytes:
    """``extra`` are chunks before the pixels."""
    if interlaced:
        rows = b"".join(
            _pack_rows([row[left::step_x] for row in pixels[top::step_y]], depth)
            for left, top, step_x, step_y in _PASSES
        )
    else:
        rows = _pack_rows(pixels, depth)
    return assemble(len(pixels[0]), len(pixels), rows, depth, kind, extra, interlaced=interlaced)


def assemble(  # noqa: PLR0917  (the fields of IHDR, in their order)
    width: int,
    height: int,
    rows: bytes,
    depth: int,
    kind: int,
    extra: bytes = b"",
    *,
    interlaced: bool = False,
) -> bytes:
    """A file that claims this size, whatever rows it has."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    data = chunk(b"IDAT", zlib.compress(rows))
    return SIGNATURE + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def put_in(content: bytes, chunks: bytes) -> bytes:
    """``content`` with more chunks behind its IHDR."""
    return content[:AFTER_IHDR] + chunks + content[AFTER_IHDR:]


def _pack_rows(pixels: Pixels, depth: int) -> bytes:
    return b"".join(b"\0" + _pack_row(row, depth) for row in pixels if row)


def _pack_row(row: Sequence[Sequence[int]], depth: int) -> bytes:
    bits = "".join(f"{sample:0{depth}b}" for pixel in row for sample in pixel)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)
