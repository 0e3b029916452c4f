"""Files that are refused, each with the code and a word of the reason."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from bench.fuzz.corpus import jpeg, png
from bench.fuzz.corpus.picture import encode, picture

ALLOWED = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
OTHER_FORMATS = (
    *("TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "EPS", "PDF", "DDS", "ICNS", "MSP"),
    *("XBM", "SPIDER", "JPEG2000", "AVIF", "DIB", "QOI"),
)
"""Those that Pillow writes; the test takes those that this one does."""


@dataclass(frozen=True, slots=True)
class Bad:
    name: str
    content: bytes = field(repr=False)
    code: str = "invalid_image"
    word: str = "not one of"


def bad_files() -> Iterator[Bad]:
    yield from _cut()
    yield from _empty()
    yield from _bombs()
    yield from _other_formats()


def _cut() -> Iterator[Bad]:
    for name in ALLOWED:
        content = encode(Image.effect_noise((64, 64), 80).convert("RGB"), name)
        for part in (3, 2):
            cut = content[: len(content) * (part - 1) // part]
            yield Bad(f"{part - 1}/{part} of a {name}", cut, word="damaged or cut short")
        yield Bad(f"the beginning of a {name}", content[:12], word="damaged")
    noise = encode(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG", progressive=True)
    half = noise[: len(noise) // 2]
    yield Bad("half of a progressive JPEG", half, word="damaged or cut short")


def _empty() -> Iterator[Bad]:
    yield Bad("nothing", b"", word="empty")
    yield Bad("a PNG of no pixels", png.assemble(0, 0, b"", 8, png.RGB))
    yield Bad("a PNG without height", png.assemble(9, 0, b"", 8, png.RGB))
    screen = b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0x80, 0, 0) + bytes(6)
    yield Bad("a GIF of no pixels", screen + b"," + bytes(9) + b"\x02\x02\x44\x01\0;")
    header = struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    yield Bad("a BMP of no pixels", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)
    flat = bytearray(encode(picture(), "JPEG"))
    frame = next(found for found in jpeg.segments(bytes(flat)) if found.kind == 0xC0)
    flat[frame.start + 5 : frame.start + 7] = b"\0\0"
    yield Bad("a JPEG without height", bytes(flat), word="")
    swapped = png.SIGNATURE + encode(picture(), "JPEG")[8:]
    yield Bad("a JPEG that begins as a PNG", swapped)
    behind = b"\xff\xd8\xff\xe0" + encode(picture(), "PNG")[4:]
    yield Bad("a PNG that begins as a JPEG", behind, word="damaged")


def _bombs() -> Iterator[Bad]:
    huge = png.assemble(60_000, 60_000, b"", 8, png.RGB)
    yield Bad("a PNG of 3.6 gigapixels", huge, "payload_too_large", "megapixels")
    large = png.assemble(9_000, 9_000, b"", 8, png.RGB)
    yield Bad("a PNG of 81 megapixels", large, "payload_too_large", "megapixels")
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\0;"
    yield Bad("a GIF of 4 gigapixels", screen + frame, "payload_too_large", "megapixels")
    wide = bytearray(encode(picture(), "WEBP", lossless=True))
    wide[21:25] = b"\xff\xff\xff\x0f"  # 16384 × 16384
    yield Bad("a WebP of 268 megapixels", bytes(wide), "payload_too_large", "megapixels")
    slow = encode(Image.new("RGB", (2000, 2000), "red"), "JPEG", progressive=True)
    many = jpeg.with_more_scans(slow, 100_000)
    yield Bad("a JPEG of 100,000 scans", many, word="scans")
    plain, dot = encode(picture(), "JPEG"), encode(picture(), "PNG")
    exif = jpeg.segment(jpeg.APP1, b"Exif\0\0ab") * 500_000
    yield Bad("a JPEG of 500,000 segments", jpeg.put_in(plain, exif), word="pieces")
    chunks = png.chunk(b"prIv", b"") * 500_000
    yield Bad("a PNG of 500,000 chunks", png.put_in(dot, chunks), word="pieces")
    still = encode(picture(), "GIF")
    palette_end = 13 + (3 << (still[10] & 7) + 1)
    dribble = b"!\xfe" + b"\1c" * 500_000 + b"\0"
    yield Bad("a GIF of 500,000 blocks", still[:palette_end] + dribble, word="pieces")
    runs = b"\1\0\0\0" * 700 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 70_000, 700, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078)
    yield Bad("a BMP of runs", start + header + bytes(1024) + runs, word="compressed")


def _other_formats() -> Iterator[Bad]:
    Image.init()
    for name in OTHER_FORMATS:
        if name in Image.SAVE:
            mode = {"XBM": "1", "MSP": "1", "SPIDER": "F"}.get(name, "RGB")
            yield Bad(f"a {name}", encode(picture().resize((32, 32)).convert(mode), name))
    yield Bad("an SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///"/></svg>')
    yield Bad("a HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    yield Bad("a PSD", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(a) (w) file\n"
    yield Bad("an EPS with a program", script)
    yield Bad("a ZIP", b"PK\3\4" + bytes(200))
    yield Bad("a web page", b"<!DOCTYPE html><html><body><img src=x></body></html>")
