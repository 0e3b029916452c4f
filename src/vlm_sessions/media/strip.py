"""Of an encoded image only what makes its picture: the rest never reaches a decoder.

Texts, colour profiles, previews, further frames, second pictures and whatever was appended are left
out. They are where an image can be far more work than its pixels: a profile that inflates to a
gigabyte, a million notes that a decoder joins one by one, a thousand passes over one picture. Left
out, they also cannot make a picture unreadable that every viewer shows.

    JPEG   markers, the Exif of its orientation, frame, tables, scans, up to EOI
    PNG    IHDR, PLTE, tRNS, eXIf, IDAT, IEND
    GIF    the first frame with its palette and its transparency
    else   as it is

What cannot be followed is passed on from there, for the decoder to refuse.
Sources: ITU-T T.81 annex B (JPEG), W3C's PNG specification, CompuServe's GIF89a.
"""

from __future__ import annotations

import re
import struct

from vlm_sessions.errors import InvalidImage

MAX_JPEG_SCANS = 100
"""Photographs have about ten. Each is a pass over all pixels, and may be 14 bytes of the file."""
MAX_PIECES = 1000
"""Chunks, segments or blocks that any file may have; a large one may have more, at these sizes:"""
BYTES_PER_PIECE = 256
BYTES_PER_GIF_BLOCK = 16

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_FIXED_BYTES = 12

# A marker that ends a scan's data: not a stuffed byte (0), not a restart (D0 to D7).
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _APP0, _APP1, _APP14, _APP15, _COMMENT = (
    *(0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE),
)
_TEMPORARY = 0x01
_EXIF = b"Exif\0\0"

_GIF_EXTENSION, _GIF_IMAGE, _GIF_CONTROL, _GIF_END = 0x21, 0x2C, 0xF9, 0x3B


def strip_image(content: bytes) -> bytes:
    """``content`` without what is not its picture.

    Raises:
        InvalidImage: it is made of more pieces or passes than a picture could need.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(content)
    if content.startswith(_PNG_SIGNATURE):
        return _strip_png(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _strip_gif(content)
    return content


def _check_pieces(num_pieces: int, content: bytes, bytes_per_piece: int) -> None:
    if num_pieces > MAX_PIECES + len(content) // bytes_per_piece:
        raise InvalidImage("An image is made of too many small pieces. Save it anew and send that.")


def _strip_jpeg(content: bytes) -> bytes:
    view = memoryview(content)
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    position, num_pieces, num_scans, has_exif = 2, 0, 0, False
    while marker := _JPEG_MARKER.search(content, position):
        num_pieces += 1
        _check_pieces(num_pieces, content, BYTES_PER_PIECE)
        start, kind = marker.start(), content[marker.start() + 1]
        if num_scans:
            kept.append(view[position:start])  # a scan's data
        if kind == _EOI:
            kept.append(b"\xff\xd9")
            return b"".join(kept)
        if kind in (_SOI, _TEMPORARY):
            position = marker.end()
            continue
        end = start + 2 + int.from_bytes(view[start + 2 : start + 4])
        is_exif = kind == _APP1 and content.startswith(_EXIF, start + 4)
        if _makes_picture(kind) or (is_exif and not has_exif):
            kept.append(view[start:end])
        has_exif |= is_exif
        num_scans += kind == _SOS
        if num_scans > MAX_JPEG_SCANS:
            raise InvalidImage(
                f"A JPEG has more than {MAX_JPEG_SCANS} scans. Save it anew and send that."
            )
        position = max(end, start + 4)
    kept.append(view[position:])
    return b"".join(kept)


def _makes_picture(kind: int) -> bool:
    """All but comments and APPn; of those JFIF's and Adobe's, which say how colours are meant."""
    return kind in (_APP0, _APP14) or not (_APP0 <= kind <= _APP15 or kind == _COMMENT)


def _strip_png(content: bytes) -> bytes:
    view = memoryview(content)
    kept: list[bytes | memoryview] = [_PNG_SIGNATURE]
    position, num_pieces, has_exif = len(_PNG_SIGNATURE), 0, False
    while position + 8 <= len(content):
        num_pieces += 1
        _check_pieces(num_pieces, content, BYTES_PER_PIECE)
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + _PNG_FIXED_BYTES + length
        is_exif = name == b"eXIf"
        if name in _PNG_CHUNKS or (is_exif and not has_exif):
            kept.append(view[position:end])
        has_exif |= is_exif
        position = end
        if name == b"IEND":
            break
    return b"".join(kept)


def _strip_gif(content: bytes) -> bytes:
    if len(content) < 13:
        return content
    position = 13 + _gif_palette_bytes(content[10])
    head, control, num_pieces = content[:position], b"", 0
    while position + 2 <= len(content):
        start = position
        if content[position] == _GIF_EXTENSION:
            position += 2
        elif content[position] == _GIF_IMAGE and position + 10 <= len(content):
            position += 11 + _gif_palette_bytes(content[position + 9])
        elif content[position] == _GIF_END:
            break
        else:
            num_pieces += 1
            _check_pieces(num_pieces, content, BYTES_PER_GIF_BLOCK)
            position += 1  # as decoders do: on to what looks like a block
            continue
        while True:
            num_pieces += 1
            _check_pieces(num_pieces, content, BYTES_PER_GIF_BLOCK)
            size = content[position] if position < len(content) else 0
            position += 1 + size
            if not size:
                break
        if content[start] == _GIF_IMAGE:
            end = b"" if position > len(content) else bytes([_GIF_END])
            return b"".join([head, control, content[start:position], end])
        if content[start + 1] == _GIF_CONTROL:
            control = content[start:position]
    return head + control


def _gif_palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
