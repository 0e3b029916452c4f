"""Good and odd files. Each shows the picture meant, in any viewer and to the model."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from bench.fuzz.corpus import jpeg, png
from bench.fuzz.corpus.picture import COLOURS, HEIGHT, WIDTH, encode, picture

ORIENTATION = 0x0112
# Exif's orientation -> what turns an upright picture into one stored so.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Odd:
    """A file, and what a person sees in it."""

    name: str
    content: bytes = field(repr=False)
    format: str
    meant: Image.Image = field(default_factory=picture, repr=False)


def odd_files() -> Iterator[Odd]:
    yield from _jpegs()
    yield from _exif()
    yield from _pngs()
    yield from _transparent()
    yield from _gifs()
    yield from _others()
    yield from _appended()


def grey() -> Image.Image:
    return picture().convert("L").convert("RGB")


def half_white() -> Image.Image:
    """Its right half is transparent, and so white."""
    meant = picture()
    meant.paste("white", (WIDTH // 2, 0, WIDTH, HEIGHT))
    return meant


def _other() -> Image.Image:
    """What must not be seen: a second frame, a second picture."""
    return Image.new("RGB", (WIDTH, HEIGHT), "black")


def _jpegs() -> Iterator[Odd]:
    cmyk = encode(picture().convert("CMYK"), "JPEG", quality=95)
    yield Odd("a JPEG", encode(picture(), "JPEG", quality=95), "JPEG")
    yield Odd("a progressive JPEG", encode(picture(), "JPEG", progressive=True), "JPEG")
    yield Odd("a grey JPEG", encode(picture().convert("L"), "JPEG"), "JPEG", grey())
    yield Odd("a CMYK JPEG, inverted as Adobe's", cmyk, "JPEG")
    yield Odd("a CMYK JPEG without Adobe's mark", jpeg.without(cmyk, jpeg.APP14), "JPEG")
    two = encode(picture(), "MPO", save_all=True, append_images=[_other()])
    yield Odd("two pictures in one JPEG (MPO)", two, "JPEG")
    plain = encode(picture(), "JPEG", quality=95)
    profile = jpeg.segment(jpeg.APP2, b"ICC_PROFILE\0\1\1" + bytes(9000))
    yield Odd("a JPEG with a broken colour profile", jpeg.put_in(plain, profile), "JPEG")
    note = jpeg.segment(jpeg.COMMENT, b"\xff\xd9\xff\xda" * 99)
    yield Odd("a JPEG with markers in a comment", jpeg.put_in(plain, note), "JPEG")
    yield Odd("a JPEG with fill bytes", plain[:2] + b"\xff\xff\xff" + plain[2:], "JPEG")


def _exif() -> Iterator[Odd]:
    for orientation, turn in _STORED.items():
        stored = picture() if turn is None else picture().transpose(turn)
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for name in ("JPEG", "WEBP", "PNG"):
            content = encode(stored, name, exif=exif, quality=95)
            yield Odd(f"a {name} with orientation {orientation}", content, name)
    exif[ORIENTATION] = 9
    yield Odd("a JPEG with orientation 9", encode(picture(), "JPEG", exif=exif), "JPEG")
    plain, whole = encode(picture(), "JPEG", quality=95), b"Exif\0\0" + exif.tobytes()[6:]
    for name, data in {
        "cut": whole[: len(whole) // 2],
        "empty": b"Exif\0\0",
        "without end": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(60),
        "beyond its end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "of other types": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x02\0\0\0\x01\0\0\0\0",
        "of noise": b"Exif\0\0" + bytes(range(256)),
    }.items():
        content = jpeg.put_in(plain, jpeg.segment(jpeg.APP1, data))
        yield Odd(f"a JPEG with Exif {name}", content, "JPEG")


def _rows(sample: Callable[[tuple[int, ...]], tuple[int, ...]]) -> png.Pixels:
    """The picture meant, each of its colours written as ``sample`` says."""
    written = [sample(colour) for colour in COLOURS]
    return [
        [written[2 * (row >= HEIGHT // 2) + (column >= WIDTH // 2)] for column in range(WIDTH)]
        for row in range(HEIGHT)
    ]


def _deep(colour: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value * 257 for value in colour)


def _luma(colour: tuple[int, ...]) -> int:
    grey = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    assert isinstance(grey, int)
    return grey


def _pngs() -> Iterator[Odd]:
    plain = encode(picture(), "PNG")
    yield Odd("a PNG", plain, "PNG")
    deep = png.png(_rows(_deep), depth=16, kind=png.RGB)
    yield Odd("a PNG of 16 bits", deep, "PNG")
    deep_grey = png.png(_rows(lambda c: (_luma(c) * 257,)), depth=16, kind=png.GREY)
    yield Odd("a grey PNG of 16 bits", deep_grey, "PNG", grey())
    woven = png.png(_rows(tuple), depth=8, kind=png.RGB, interlaced=True)
    yield Odd("an interlaced PNG", woven, "PNG")
    yield Odd("a grey PNG", encode(picture().convert("L"), "PNG"), "PNG", grey())
    bits = picture().convert("1", dither=Image.Dither.NONE)
    yield Odd("a PNG of one bit", encode(bits, "PNG"), "PNG", bits.convert("RGB"))
    yield Odd("a PNG with a palette", encode(picture().quantize(4), "PNG"), "PNG")
    moving = encode(picture(), "PNG", save_all=True, append_images=[_other()])
    yield Odd("an animated PNG", moving, "PNG")
    million = zlib.compress(bytes(10_000_000), 9)
    for name, chunks in {
        "a colour profile that inflates to 10 MB": png.chunk(b"iCCP", b"a\0\0" + million),
        "100 notes that inflate to 1 GB": png.chunk(b"zTXt", b"a\0\0" + million) * 100,
        "a note that inflates to 10 MB": png.chunk(b"iTXt", b"a\0\1\0\0\0" + million),
        "a chunk of its maker's": png.chunk(b"prIv", b"\0" * 999),
        "a note with a wrong checksum": png.chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    }.items():
        yield Odd(f"a PNG with {name}", png.put_in(plain, chunks), "PNG")


def _transparent() -> Iterator[Odd]:
    """The right half is transparent, in every way that a PNG has."""
    see_through = picture().convert("RGBA")
    see_through.paste((0, 0, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    with_alpha = encode(see_through, "PNG")
    yield Odd("a PNG with alpha", with_alpha, "PNG", half_white())
    yield Odd("a WebP with alpha", encode(see_through, "WEBP", lossless=True), "WEBP", half_white())
    grey_alpha = encode(see_through.convert("LA"), "PNG")
    yield Odd("a grey PNG with alpha", grey_alpha, "PNG", half_white().convert("L").convert("RGB"))
    palette = picture().quantize(4)
    index = palette.getpixel((WIDTH - 1, 0))
    clear = encode(palette, "PNG", transparency=index)
    meant = picture()
    meant.paste("white", (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    yield Odd("a PNG with a transparent colour in its palette", clear, "PNG", meant)
    key = png.chunk(b"tRNS", struct.pack(">HHH", *COLOURS[1]))
    by_key = png.png(_rows(tuple), depth=8, kind=png.RGB, extra=key)
    yield Odd("a PNG with a transparent colour", by_key, "PNG", meant)
    deep_key = png.chunk(b"tRNS", struct.pack(">HHH", *_deep(COLOURS[1])))
    deep = png.png(_rows(_deep), depth=16, kind=png.RGB, extra=deep_key)
    yield Odd("a PNG of 16 bits with a transparent colour", deep, "PNG", meant)
    for depth in (1, 2, 4, 8, 16):
        yield _grey_key(depth)


def _grey_key(depth: int) -> Odd:
    """Three greys and, at the top right, the transparent one."""
    top = 2**depth - 1
    levels = (0, top // 3, top, top)
    shades = dict(zip(COLOURS, levels, strict=True))
    key = png.chunk(b"tRNS", struct.pack(">H", levels[1]))
    rows = _rows(lambda colour: (shades[(colour[0], colour[1], colour[2])],))
    seen = [255 if level == levels[1] else round(level * 255 / top) for level in levels]
    meant = Image.new("L", (WIDTH, HEIGHT))
    for corner, value in enumerate(seen):
        left, upper = corner % 2 * WIDTH // 2, corner // 2 * HEIGHT // 2
        meant.paste(value, (left, upper, left + WIDTH // 2, upper + HEIGHT // 2))
    content = png.png(rows, depth=depth, kind=png.GREY, extra=key)
    name = f"a grey PNG of {depth} bits with a transparent shade"
    return Odd(name, content, "PNG", meant.convert("RGB"))


def _gifs() -> Iterator[Odd]:
    yield Odd("a GIF", encode(picture(), "GIF"), "GIF")
    moving = encode(picture(), "GIF", save_all=True, append_images=[_other()])
    yield Odd("an animated GIF", moving, "GIF")
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 300 + b"\0"
    still = encode(picture(), "GIF")
    palette_end = 13 + (3 << (still[10] & 7) + 1)
    noted = still[:palette_end] + comment + still[palette_end:]
    yield Odd("a GIF with a long comment", noted, "GIF")
    # A 4 × 4 screen of which the frame covers one pixel: around it there is nothing.
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes([200, 0, 0, 0, 0, 200])
    frame = b"," + struct.pack("<HHHHB", 1, 1, 1, 1, 0) + b"\x02\x02\x4c\x01\0;"
    meant = Image.new("RGB", (4, 4), "white")
    meant.putpixel((1, 1), (0, 0, 200))
    yield Odd("a GIF whose frame covers a part", screen + frame, "GIF", meant)


def _others() -> Iterator[Odd]:
    yield Odd("a WebP", encode(picture(), "WEBP", quality=95), "WEBP")
    yield Odd("a lossless WebP", encode(picture(), "WEBP", lossless=True), "WEBP")
    moving = encode(picture(), "WEBP", save_all=True, append_images=[_other()], lossless=True)
    yield Odd("an animated WebP", moving, "WEBP")
    bitmap = encode(picture(), "BMP")
    yield Odd("a BMP", bitmap, "BMP")
    yield Odd("a BMP with a palette", encode(picture().quantize(4), "BMP"), "BMP")
    upside_down = picture().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    top_down = bytearray(encode(upside_down, "BMP"))
    struct.pack_into("<i", top_down, 22, -HEIGHT)
    yield Odd("a BMP from top to bottom", bytes(top_down), "BMP")


def _appended() -> Iterator[Odd]:
    """Two files in one, each good by itself, and what cameras and phones append."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Main-Class: Evil")
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        content = encode(picture(), name) + archive.getvalue()
        yield Odd(f"a {name} that is a ZIP as well", content, name)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 5000
    yield Odd("a JPEG with a film behind it", encode(picture(), "JPEG", quality=95) + film, "JPEG")
