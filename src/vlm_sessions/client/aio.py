"""The asynchronous client, twin of ``sync``: the same words with ``await``."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from vlm_sessions.client import replies, wire
from vlm_sessions.client.answers import AnswerReader, StreamedAnswer
from vlm_sessions.client.errors import ClientError, SessionEnded
from vlm_sessions.client.http import AsyncHttpTransport
from vlm_sessions.client.images import ImageArgument
from vlm_sessions.client.retry import RetryPolicy
from vlm_sessions.client.sagemaker import AsyncSageMakerTransport
from vlm_sessions.client.transport import DEFAULT_TIMEOUT, DEFAULT_URL, AsyncTransport
from vlm_sessions.client.types import Answer, Description, ImageInfo, Opened
from vlm_sessions.client.wire import Reply, Request, Sampling

T = TypeVar("T")


class AsyncClient:
    """As ``Client``; its arguments are the same.

    async with AsyncClient(url) as client, client.open("cat.png") as chat:
        async for piece in chat.stream("What is this?"):
            ...
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        sagemaker_endpoint: str | None = None,
        sagemaker_runtime: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
    ) -> None:
        transport: AsyncTransport = (
            AsyncHttpTransport(url, timeout, api_key)
            if sagemaker_endpoint is None
            else AsyncSageMakerTransport(sagemaker_endpoint, timeout, sagemaker_runtime)
        )
        self._caller = _Caller(transport, retry or RetryPolicy())

    def open(self, images: ImageArgument = None, *, system: str | None = None) -> Opening:
        """``await`` it for a session, or enter it with ``async with`` to have it closed as well."""
        return Opening(self._caller, images, system)

    async def generate(
        self,
        prompt: str,
        images: ImageArgument = None,
        *,
        system: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Answer:
        request = wire.generate(prompt, images, system, stream=False, **sampling)
        return await self._caller.call(request, replies.answer)

    def stream(
        self,
        prompt: str,
        images: ImageArgument = None,
        *,
        system: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncAnswerStream:
        request = wire.generate(prompt, images, system, stream=True, **sampling)
        return AsyncAnswerStream(self._caller, request)

    async def close(self) -> None:
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class Opening:
    """A session about to be opened: awaitable, and an asynchronous context manager."""

    def __init__(self, caller: _Caller, images: ImageArgument, system: str | None) -> None:
        self._caller = caller
        self._images = images
        self._system = system
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._open()
        return await self._session.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._session is not None, "left without having been entered"
        await self._session.__aexit__(kind, exc, traceback)

    async def _open(self) -> AsyncSession:
        request = await asyncio.to_thread(wire.open_session, self._images, self._system)
        return AsyncSession(self._caller, await self._caller.call(request, replies.opened))


class AsyncSession:
    """As ``Session``."""

    def __init__(self, caller: _Caller, opened: Opened) -> None:
        self._caller = caller
        self._opened = opened

    @property
    def id(self) -> str:
        return self._opened.session_id

    @property
    def images(self) -> tuple[ImageInfo, ...]:
        return self._opened.images

    async def ask(
        self, prompt: str, images: ImageArgument = None, **sampling: Unpack[Sampling]
    ) -> Answer:
        request = wire.prompt(self.id, prompt, images, stream=False, **sampling)
        return await self._caller.call(request, replies.answer)

    def stream(
        self, prompt: str, images: ImageArgument = None, **sampling: Unpack[Sampling]
    ) -> AsyncAnswerStream:
        request = wire.prompt(self.id, prompt, images, stream=True, **sampling)
        return AsyncAnswerStream(self._caller, request, on_abandon=wire.cancel_prompt(self.id))

    async def cancel(self) -> bool:
        return await self._caller.call(wire.cancel_prompt(self.id), replies.cancelled)

    async def describe(self) -> Description:
        return await self._caller.call(wire.describe_session(self.id), replies.description)

    async def fork(self) -> AsyncSession:
        opened = await self._caller.call(wire.fork_session(self.id), replies.opened)
        return AsyncSession(self._caller, opened)

    async def rewind(self, turns: int = 1) -> int:
        return await self._caller.call(wire.rewind_session(self.id, turns), replies.rewound)

    async def close(self) -> None:
        with suppress(SessionEnded):
            await self._caller.call(wire.close_session(self.id), replies.closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.close()
            return
        with suppress(ClientError):
            await self.close()


class AsyncAnswerStream(StreamedAnswer):
    """As ``AnswerStream``. Leave it early with ``async with`` or ``aclose()``: a dropped
    asynchronous generator ends only when the event loop comes round to it."""

    def __init__(
        self, caller: _Caller, request: Request, on_abandon: Request | None = None
    ) -> None:
        super().__init__()
        self._pieces = _pieces(caller, request, self._reader, on_abandon)

    async def aclose(self) -> None:
        await self._pieces.aclose()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class _Caller:
    """As ``sync._Caller``, but for closing: nothing can await in a finalizer."""

    def __init__(self, transport: AsyncTransport, retry: RetryPolicy) -> None:
        self._transport = transport
        self._retry = retry
        self.close = transport.close

    async def call(self, request: Request, parse: Callable[[Reply], T]) -> T:
        for num_tries in itertools.count(1):
            reply = await self._transport.send(request)
            pause = self._retry.pause(request, reply, num_tries)
            if pause is None:
                break
            await asyncio.sleep(pause)
        return parse(reply)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        for num_tries in itertools.count(1):
            async with self._transport.stream(request) as reply:
                if reply.status < 400:
                    yield reply.chunks
                    return
                body = b"".join([chunk async for chunk in reply.chunks])
                refused = Reply(reply.status, body, reply.retry_after)
            pause = self._retry.pause(request, refused, num_tries)
            if pause is None:
                raise replies.error_of(refused)
            await asyncio.sleep(pause)


async def _pieces(
    caller: _Caller, request: Request, reader: AnswerReader, on_abandon: Request | None
) -> AsyncGenerator[str]:
    async with caller.stream(request) as chunks:
        try:
            async for chunk in chunks:
                for piece in reader.feed(chunk):
                    yield piece
            reader.finish()
        except (GeneratorExit, asyncio.CancelledError):
            if on_abandon is not None and reader.answer is None:
                with suppress(ClientError):
                    await caller.call(on_abandon, replies.cancelled)
            raise
