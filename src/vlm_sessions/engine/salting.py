"""Images under the names of one salt, on their way to an engine, and under their digests back.

The service knows an image by its digest; an engine, for a turn with a salt, by a name that no turn
of another salt has. So features and pixels are shared within a salt and never beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from vlm_sessions.engine.content import salted
from vlm_sessions.engine.interface import PixelSource
from vlm_sessions.engine.types import CacheLocation, ImageSpan, PixelImage, Turn


def salt_images(images: Iterable[ImageSpan], salt: str) -> tuple[ImageSpan, ...]:
    """The same places under the names of the salt."""
    return tuple(ImageSpan(salted(i.digest, salt), i.start, i.length) for i in images)


def salt_turn(turn: Turn, pixels: PixelSource) -> tuple[Turn, PixelSource]:
    """The turn with its images renamed, and a source that knows them by their new names."""
    if not turn.salt:
        return turn, pixels
    digests = _digests(turn.images, turn.salt)

    async def renamed(name: str) -> PixelImage:
        image = await pixels(digests[name])
        if image.digest != digests[name]:
            return image  # another one: its name will tell
        return msgspec.structs.replace(image, digest=name)

    images = salt_images(turn.images, turn.salt)
    return msgspec.structs.replace(turn, images=images), renamed


def unsalt_location(
    location: CacheLocation, images: Sequence[ImageSpan], salt: str
) -> CacheLocation:
    """Where things are, by the digests of ``images``."""
    if not salt:
        return location
    digests = _digests(images, salt)

    def back(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(digests[name] for name in names)

    return msgspec.structs.replace(
        location,
        features=back(location.features),
        host_features=back(location.host_features),
        pixels=back(location.pixels),
    )


def _digests(images: Iterable[ImageSpan], salt: str) -> dict[str, str]:
    """name -> digest"""
    return {salted(image.digest, salt): image.digest for image in images}
