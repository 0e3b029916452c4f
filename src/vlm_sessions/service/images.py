"""Images for the service: taken from requests, described, turned into pixels for the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from vlm_sessions.config import Settings
from vlm_sessions.engine.interface import PixelSource
from vlm_sessions.engine.types import PixelImage
from vlm_sessions.errors import PayloadTooLarge, TooManyImages
from vlm_sessions.media.decode import check_content_type, decode_image, digest_bytes
from vlm_sessions.media.fetch import ImageFetcher
from vlm_sessions.processing import ImageRef, Processor
from vlm_sessions.protocol.schema import ImageInput, InlineImage, RawImage
from vlm_sessions.sessions.session import SessionImage

NUM_THREADS = 2
"""Decoding is bound by the processor, and a large picture takes hundreds of MB while it lasts."""

_MIB = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatheredImage:
    """An image of a request, found to be sound."""

    image: SessionImage
    content: bytes


def contents_of(images: Iterable[GatheredImage]) -> dict[str, bytes]:
    """digest -> encoded bytes."""
    return {one.image.digest: one.content for one in images}


def image_refs(images: Iterable[SessionImage]) -> tuple[ImageRef, ...]:
    return tuple(ImageRef(image.digest, image.num_tokens) for image in images)


class _Allowance:
    """Bytes that the images of one request may have together: those that are fetched count like
    those that are sent, or a few URLs would fill the memory that no body could."""

    def __init__(self, max_mb: int) -> None:
        self._max_mb = max_mb
        self._num_left = max_mb * _MIB

    def spend(self, content: bytes) -> bytes:
        """Return ``content`` if it is still within.

        Raises:
            PayloadTooLarge: it is not.
        """
        self._num_left -= len(content)
        if self._num_left < 0:
            raise PayloadTooLarge(
                f"The images of this request are larger than {self._max_mb} MiB together, which "
                "is the limit. Show them one after another; VLM_MAX_PAYLOAD_MB raises the limit."
            )
        return content


class ImageDesk:
    """Fetches, checks and prepares images, off the event loop where it takes time."""

    def __init__(
        self,
        settings: Settings,
        processor: Processor,
        fetcher: ImageFetcher,
        read_recorded: Callable[[str, str | None], Awaitable[bytes]],
    ) -> None:
        """``read_recorded`` gives the bytes behind a digest of an owner's session."""
        self._settings = settings
        self._processor = processor
        self._fetcher = fetcher
        self._read_recorded = read_recorded
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="images")
        # (digest, whose, whether the journal is asked for its bytes) -> who prepares it
        self._preparing: dict[tuple[str, str | None, bool], asyncio.Task[PixelImage]] = {}

    async def close(self) -> None:
        await self._fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check_count(self, count: int) -> None:
        """Raises:
        TooManyImages: a session may not have so many.
        """
        limit = self._settings.max_images_per_session
        if count > limit:
            raise TooManyImages(
                f"A session may have {limit} images, this would make {count}. Open another "
                "session; VLM_MAX_IMAGES_PER_SESSION raises the limit."
            )

    async def gather(self, inputs: Sequence[ImageInput]) -> tuple[GatheredImage, ...]:
        """Fetch and decode all of them at once.

        Raises:
            TooManyImages, PayloadTooLarge, and what fetching and decoding raise.
        """
        self.check_count(len(inputs))
        allowance = self._allowance()
        return await _all_of([self._take(one, allowance) for one in inputs])

    async def digests(self, inputs: Sequence[ImageInput]) -> tuple[str, ...]:
        """Content digests of images that are to be compared, not used."""
        self.check_count(len(inputs))
        allowance = self._allowance()
        contents = await _all_of([self._fetch(one, allowance) for one in inputs])
        return tuple([await self._in_thread(partial(digest_bytes, one)) for one in contents])

    def pixel_source(self, contents: Mapping[str, bytes], owner: str | None = None) -> PixelSource:
        """Pixels by digest, from ``contents`` of the request at hand or else from the journal, for
        this owner: nobody is served sooner because somebody else has shown the same picture."""

        async def pixels(digest: str) -> PixelImage:
            content = contents.get(digest)
            # Shared, so one of those who wait for it may leave. But who has the bytes does not
            # depend on the journal of a session that may just be ending.
            key = (digest, owner, content is None)
            task = self._preparing.get(key)
            if task is None:
                task = asyncio.create_task(self._prepare(digest, owner, content))
                self._preparing[key] = task
                task.add_done_callback(partial(self._prepared, key))
            return await asyncio.shield(task)

        return pixels

    def _allowance(self) -> _Allowance:
        return _Allowance(max(self._settings.max_payload_mb, self._settings.max_image_mb))

    async def _take(self, source: ImageInput, allowance: _Allowance) -> GatheredImage:
        content = await self._fetch(source, allowance)
        return await self._in_thread(partial(self._examine, content))

    async def _fetch(self, source: ImageInput, allowance: _Allowance) -> bytes:
        match source:
            case RawImage():
                check_content_type(source.content_type)
                content = self._fetcher.check_size(source.content)
            case InlineImage():
                content = await self._in_thread(partial(self._fetcher.decode_base64, source.data))
            case str():
                content = await self._fetcher.fetch(source)
        return allowance.spend(content)

    async def _prepare(self, digest: str, owner: str | None, content: bytes | None) -> PixelImage:
        if content is None:
            content = await self._read_recorded(digest, owner)
        return await self._in_thread(partial(self._pixels, digest, content))

    def _prepared(self, key: tuple[str, str | None, bool], task: asyncio.Task[PixelImage]) -> None:
        self._preparing.pop(key, None)
        if not task.cancelled():
            task.exception()  # who waited has been told; all of them may have left

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    # --- in a thread ----------------------------------------------------------------------------

    def _examine(self, content: bytes) -> GatheredImage:
        decoded = decode_image(content, max_megapixels=self._settings.max_image_megapixels)
        image = SessionImage(
            digest=digest_bytes(content),
            width=decoded.width,
            height=decoded.height,
            num_tokens=self._processor.num_image_tokens(decoded.width, decoded.height),
            format=decoded.format,
        )
        return GatheredImage(image, content)

    def _pixels(self, digest: str, content: bytes) -> PixelImage:
        decoded = decode_image(content, max_megapixels=self._settings.max_image_megapixels)
        return self._processor.pixels(decoded.picture, digest)


async def _all_of(works: Sequence[Awaitable[T]]) -> tuple[T, ...]:
    """All results in order; at the first failure the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
