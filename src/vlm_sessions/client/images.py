"""From whatever a caller has of a picture to what a request carries."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from vlm_sessions.client.errors import ImageNotReadable

URL_PREFIXES = ("http://", "https://", "s3://", "data:")


@runtime_checkable
class SavesItself(Protocol):
    """A PIL image, as far as the client needs to know one (it does not import PIL)."""

    def save(self, fp: BinaryIO, format: str) -> None:  # noqa: A002 - PIL's own name
        ...


ImageSource = str | Path | bytes | SavesItself
"""A path, a URL (``http``, ``https``, ``s3``, ``data``), encoded bytes, or a PIL image."""

ImageArgument = ImageSource | Sequence[ImageSource] | None
"""What ``images=`` takes: nothing, one, or several."""

WireImage = str | dict[str, str]
"""What a request carries: a URL as it is, or ``{"data": base64}``."""


def wire_images(images: ImageArgument) -> list[WireImage]:
    """The ``images`` of a request: URLs stay URLs, for the service to fetch; all else is sent.

    Raises:
        ImageNotReadable: a path cannot be read, or something is not an image source.
    """
    if images is None:
        return []
    if isinstance(images, str | Path | bytes | SavesItself):
        return [_wire_image(images)]
    return [_wire_image(image) for image in images]


def _wire_image(image: ImageSource) -> WireImage:
    if isinstance(image, str) and image.startswith(URL_PREFIXES):
        return image
    return {"data": base64.b64encode(_encoded_bytes(image)).decode("ascii")}


def _encoded_bytes(image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as exc:
            raise ImageNotReadable(f"cannot read {image}: {exc.strerror or exc}") from exc
    if isinstance(image, SavesItself):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()
    raise ImageNotReadable(
        f"{type(image).__name__} is not a picture: give a path, a URL, bytes or a PIL image"
    )
