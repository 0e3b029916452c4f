"""Encoded bytes to what a person would see, within limits."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.pictures import encode_image, encoded
from vlm_sessions.errors import InvalidImage, PayloadTooLarge, UnsupportedMedia, VlmError
from vlm_sessions.media.decode import DecodedImage, check_content_type, decode_image, digest_bytes


def decode(content: bytes, max_megapixels: int = 1) -> DecodedImage:
    return decode_image(content, max_megapixels=max_megapixels)


def pixel_of(content: bytes, at: tuple[int, int] = (0, 0)) -> Any:
    picture = decode(content).picture
    assert picture.mode == "RGB"
    return picture.getpixel(at)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_of_the_web_are_read(image_format: str) -> None:
    decoded = decode(encoded("#ff0000", (20, 10), image_format))
    assert (decoded.width, decoded.height, decoded.format) == (20, 10, image_format)
    red, green, blue = pixel_of(encoded("#ff0000", (20, 10), image_format), (5, 5))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", b"GIF89a"])
def test_what_is_not_an_image_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(content)


def test_formats_that_are_not_on_the_list_are_not_even_tried() -> None:
    with pytest.raises(InvalidImage, match="JPEG, PNG"):
        decode(encoded(image_format="TIFF"))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_image_is_refused(image_format: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    content = encode_image(noise, image_format)
    with pytest.raises(InvalidImage):
        decode(content[: len(content) // 2])


def test_too_many_pixels_are_refused_before_any_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    bomb += struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(PayloadTooLarge, match="megapixels"):
        decode(bomb, max_megapixels=50)
    with pytest.raises(PayloadTooLarge, match="1 megapixels"):
        decode(encoded(size=(1001, 1000)))
    assert decode(encoded(size=(1000, 1000))).width == 1000


def test_the_orientation_of_a_photograph_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    decoded = decode(encode_image(image, "JPEG", exif=exif))
    assert (decoded.width, decoded.height) == (10, 20)


def test_transparency_lies_over_white() -> None:
    assert pixel_of(encode_image(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))) == (255, 255, 255)
    assert pixel_of(encode_image(Image.new("LA", (2, 2), (0, 128)))) == (127, 127, 127)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9])
    assert pixel_of(encode_image(palette, transparency=0)) == (255, 255, 255)


def test_other_colour_models_look_as_in_a_viewer() -> None:
    assert pixel_of(encode_image(Image.new("L", (2, 2), 100))) == (100, 100, 100)
    assert pixel_of(encode_image(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    grey = Image.new("I;16", (2, 2), 0x8000)
    assert pixel_of(encode_image(grey)) == (128, 128, 128)
    red, green, blue = pixel_of(encode_image(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG"))
    assert red > 200
    assert max(green, blue) < 60
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel_of(encode_image(palette)) == (10, 20, 30)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel_of(content) == (255, 0, 0)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_an_error_of_ours(data: st.DataObject) -> None:
    image_format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
    content = bytearray(encoded("red", (16, 16), image_format))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(content))
    except VlmError:
        return
    assert decoded.picture.mode == "RGB"


def test_pillows_own_settings_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(encoded())
    after = (Image.MAX_IMAGE_PIXELS, __import__("PIL.ImageFile").ImageFile.LOAD_TRUNCATED_IMAGES)
    assert before == after


def test_the_digest_is_of_the_encoded_bytes() -> None:
    content = encoded()
    assert digest_bytes(content) != digest_bytes(encoded("blue"))
    assert digest_bytes(content) == digest_bytes(io.BytesIO(content).read())


def test_a_raw_body_must_claim_to_be_an_image() -> None:
    for content_type in ("image/png", "IMAGE/JPEG; q=1", "application/octet-stream"):
        check_content_type(content_type)
    with pytest.raises(UnsupportedMedia):
        check_content_type("image/svg+xml")
