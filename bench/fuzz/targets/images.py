"""Real images, damaged: a picture within the limits, or an error that blames it.

Damage is done to bytes, to numbers, and to the chunks that a format is made of; of PNGs the
checksums are then put right, or no decoder would look at the damage.
"""

from __future__ import annotations

import struct
import zlib

from bench.fuzz.corpus import jpeg, png
from bench.fuzz.corpus.odd import odd_files
from bench.fuzz.corpus.picture import encode, picture
from bench.fuzz.dice import Dice, at_random
from bench.fuzz.target import Target
from bench.fuzz.targets.dialects import refused
from vlm_sessions.errors import VlmError
from vlm_sessions.media.decode import decode_image

MAX_MEGAPIXELS = 2
_FORMS = (">H", "<H", ">I", "<I")
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _seeds() -> list[bytes]:
    found = [odd.content for odd in odd_files() if len(odd.content) < 20_000]
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        found.append(encode(picture().resize((13, 7)), name))
    return found


SEEDS = _seeds()


def damaged_image(dice: Dice) -> bytes:
    """One of the real images, damaged once or more."""
    content = dice.choice(SEEDS)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        content = dice.choice(_DAMAGES)(dice, content) if content else dice.randbytes(9)
    return _with_checksums(content) if dice.one_in(2) else content


def _flip(dice: Dice, content: bytes) -> bytes:
    at, _ = _span(dice, content)
    return content[:at] + bytes([content[at] ^ 1 << dice.randrange(8)]) + content[at + 1 :]


def _number(dice: Dice, content: bytes) -> bytes:
    at, _ = _span(dice, content)
    number, form = dice.choice(_NUMBERS), dice.choice(_FORMS)
    size = struct.calcsize(form)
    written = struct.pack(form, number & (1 << 8 * size) - 1)
    return content[:at] + written + content[at + size :]


def _set(dice: Dice, content: bytes) -> bytes:
    at, _ = _span(dice, content)
    data = dice.randbytes(dice.randrange(1, 7))
    return content[:at] + data + content[at + len(data) * dice.randrange(2) :]


def _cut(dice: Dice, content: bytes) -> bytes:
    at, _ = _span(dice, content)
    return content[: at + 1]


def _drop(dice: Dice, content: bytes) -> bytes:
    start, end = _span(dice, content)
    return content[:start] + content[end:]


def _repeat(dice: Dice, content: bytes) -> bytes:
    start, end = _span(dice, content)
    return content[:end] + content[start:end] * dice.randrange(1, 9) + content[end:]


def _splice(dice: Dice, content: bytes) -> bytes:
    at, _ = _span(dice, content)
    other = dice.choice(SEEDS)
    return content[:at] + other[dice.randrange(len(other)) :]


def _swap(dice: Dice, content: bytes) -> bytes:
    """Two of its chunks exchanged, or one of them put twice."""
    pieces = _pieces(content)
    if len(pieces) < 2:
        return content
    one, other = dice.randrange(len(pieces)), dice.randrange(len(pieces))
    if dice.one_in(2):
        pieces[one], pieces[other] = pieces[other], pieces[one]
    else:
        pieces.insert(one, pieces[other])
    return b"".join(pieces)


_DAMAGES = (_flip, _flip, _number, _number, _set, _set, _cut, _drop, _repeat, _splice, _swap, _swap)


def _span(dice: Dice, content: bytes) -> tuple[int, int]:
    """A place, and another up to 64 bytes on; often in the head, where the numbers are."""
    start = dice.randrange(min(len(content), 64) if dice.one_in(3) else len(content))
    return start, start + dice.randrange(1, 65)


def _pieces(content: bytes) -> list[bytes]:
    if content.startswith(png.SIGNATURE):
        return [png.SIGNATURE, *_png_chunks(content)]
    if content.startswith(b"\xff\xd8"):
        try:
            ends = [2, *(found.end for found in jpeg.segments(content)), len(content)]
        except IndexError:  # damaged before
            ends = []
        return [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    size = 8 if content.startswith(b"RIFF") else 16
    return [content[at : at + size] for at in range(0, len(content), size)]


def _png_chunks(content: bytes) -> list[bytes]:
    found, position = [], len(png.SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        found.append(content[position : position + 12 + length])
        position += 12 + length
    return [*found, content[position:]]


def _with_checksums(content: bytes) -> bytes:
    if not content.startswith(png.SIGNATURE):
        return content
    chunks = [
        chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])) if len(chunk) >= 12 else chunk
        for chunk in _png_chunks(content)
    ]
    return png.SIGNATURE + b"".join(chunks)


def _check(content: bytes) -> str:
    try:
        decoded = decode_image(content, max_megapixels=MAX_MEGAPIXELS)
    except VlmError as error:
        return refused(error, statuses=(413, 422))
    assert decoded.picture.mode == "RGB"
    assert 0 < decoded.width * decoded.height <= MAX_MEGAPIXELS * 1_000_000
    assert len(decoded.picture.tobytes()) == 3 * decoded.width * decoded.height
    return f"→ {decoded.format}"


def images_target() -> Target[bytes]:
    return Target(at_random(damaged_image), _check)
