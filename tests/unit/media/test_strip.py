"""What is left out of an encoded image, and that nothing of its picture is."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from bench.fuzz.corpus import jpeg, png
from bench.fuzz.corpus.odd import odd_files
from bench.fuzz.corpus.picture import encode, picture
from vlm_sessions.errors import InvalidImage
from vlm_sessions.media.decode import decode_image
from vlm_sessions.media.strip import MAX_JPEG_SCANS, MAX_PIECES, strip_image

NOISE = Image.effect_noise((200, 150), 80).convert("RGB")
ENCODINGS = {
    "a JPEG": encode(NOISE, "JPEG"),
    "a fine JPEG": encode(NOISE, "JPEG", quality=100, subsampling=0),
    "a progressive JPEG": encode(NOISE, "JPEG", progressive=True),
    "a JPEG with restarts": encode(NOISE, "JPEG", restart_marker_blocks=1),
    "a PNG": encode(NOISE, "PNG"),
    "a GIF": encode(NOISE, "GIF"),
    "a WebP": encode(NOISE, "WEBP"),
    "a BMP": encode(NOISE, "BMP"),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_no_pixel_changes(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as whole:
        assert decode_image(content, max_megapixels=1).picture == whole.convert("RGB")


def test_what_is_stripped_once_stays_as_it_is() -> None:
    for odd in odd_files():
        once = strip_image(odd.content)
        assert strip_image(once) == once, odd.name


def test_words_profiles_and_second_pictures_are_gone() -> None:
    secret = b"a secret" * 9
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encode(NOISE, "JPEG", comment=secret, icc_profile=secret, xmp=secret, exif=exif)
    two = encode(NOISE, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    drawing = png.put_in(encode(NOISE, "PNG"), png.chunk(b"tEXt", b"a\0" + secret))
    moving = encode(NOISE, "GIF", save_all=True, append_images=[picture()], comment=secret)

    assert secret not in strip_image(photo) + strip_image(drawing) + strip_image(moving)
    assert b"Exif" in strip_image(photo)
    assert b"MPF\0" not in strip_image(two)
    assert strip_image(two).count(b"\xff\xd8\xff") == 1
    assert b"NETSCAPE" not in strip_image(moving)


def test_a_photograph_may_have_far_more_scans_than_any_has() -> None:
    content = encode(NOISE, "JPEG", progressive=True)
    num_scans = sum(found.kind == jpeg.SOS for found in jpeg.segments(content))

    most = jpeg.with_more_scans(content, MAX_JPEG_SCANS - num_scans)

    assert decode_image(most, max_megapixels=1).picture.size == NOISE.size
    with pytest.raises(InvalidImage, match="scans"):
        strip_image(jpeg.with_more_scans(most, 1))


def test_a_large_file_may_have_more_pieces_than_a_small_one() -> None:
    small, large = png.chunk(b"prIv", b""), png.chunk(b"prIv", bytes(500))
    dot = encode(picture(), "PNG")

    assert strip_image(png.put_in(dot, large * (MAX_PIECES + 100))) == strip_image(dot)
    with pytest.raises(InvalidImage, match="pieces"):
        strip_image(png.put_in(dot, small * (MAX_PIECES + 100)))


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_a_file_cut_anywhere_is_followed_to_its_end(content: bytes) -> None:
    for end in range(0, min(len(content), 2000)):
        assert len(strip_image(content[:end])) <= end + 2
