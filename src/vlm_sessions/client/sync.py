"""The synchronous client: what is said comes from ``wire``, what is understood from ``replies``
and ``answers``; here is only the waiting. ``aio`` is its twin."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from vlm_sessions.client import replies, wire
from vlm_sessions.client.answers import AnswerReader, StreamedAnswer
from vlm_sessions.client.errors import ClientError, SessionEnded
from vlm_sessions.client.http import HttpTransport
from vlm_sessions.client.images import ImageArgument
from vlm_sessions.client.retry import RetryPolicy
from vlm_sessions.client.sagemaker import SageMakerTransport
from vlm_sessions.client.transport import DEFAULT_TIMEOUT, DEFAULT_URL, Transport
from vlm_sessions.client.types import Answer, Description, ImageInfo, Opened
from vlm_sessions.client.wire import Reply, Request, Sampling

T = TypeVar("T")


class Client:
    """Opens sessions with a service, over HTTP or through a SageMaker endpoint.

        with Client("http://127.0.0.1:8080").open("cat.png") as chat:
            for piece in chat.stream("What is this?"):
                print(piece, end="")

    Safe to use from several threads. Its connections close with ``close()``, at the end of
    ``with``, or with the last session that uses them.

    Args:
        url: of the service.
        api_key: where the service asks for one. SageMaker does not: there, IAM decides.
        sagemaker_endpoint: name of a SageMaker endpoint, in place of ``url``; needs boto3.
        sagemaker_runtime: a boto3 ``sagemaker-runtime`` client of your own, for another region or
            other credentials than the environment's.
        timeout: seconds without a single byte after which a request is given up.
        retry: when a request that was refused with 429 or 503 is sent again. Prompts are not,
            unless it says so.
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
        transport: Transport = (
            HttpTransport(url, timeout, api_key)
            if sagemaker_endpoint is None
            else SageMakerTransport(sagemaker_endpoint, timeout, sagemaker_runtime)
        )
        self._caller = _Caller(transport, retry or RetryPolicy())

    def open(self, images: ImageArgument = None, *, system: str | None = None) -> Session:
        """Begin a session about ``images``: each a path, a URL, bytes or a PIL image.

        Raises:
            ImageNotReadable: a path cannot be read.
            ClientError: see ``errors``.
        """
        request = wire.open_session(images, system)
        return Session(self._caller, self._caller.call(request, replies.opened))

    def generate(
        self,
        prompt: str,
        images: ImageArgument = None,
        *,
        system: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Answer:
        """One answer without a session; nothing is remembered.

        Raises:
            ClientError: see ``errors``.
        """
        request = wire.generate(prompt, images, system, stream=False, **sampling)
        return self._caller.call(request, replies.answer)

    def stream(
        self,
        prompt: str,
        images: ImageArgument = None,
        *,
        system: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> AnswerStream:
        """As ``generate``, piece by piece."""
        request = wire.generate(prompt, images, system, stream=True, **sampling)
        return AnswerStream(self._caller, request)

    def close(self) -> None:
        """Close the connections. Sessions stay open at the service until they expire."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Session:
    """A conversation that the service keeps, images included. Made by ``Client.open`` or ``fork``.

    As a context manager it is closed at the end. Prompts of one session run in order.
    """

    def __init__(self, caller: _Caller, opened: Opened) -> None:
        self._caller = caller
        self._opened = opened

    @property
    def id(self) -> str:
        return self._opened.session_id

    @property
    def images(self) -> tuple[ImageInfo, ...]:
        """Those that the session was opened with; of a fork, all that it began with."""
        return self._opened.images

    def ask(
        self, prompt: str, images: ImageArgument = None, **sampling: Unpack[Sampling]
    ) -> Answer:
        """The whole answer.

        Raises:
            SessionEnded: closed or expired; open a new one.
            ClientError: see ``errors``.
        """
        request = wire.prompt(self.id, prompt, images, stream=False, **sampling)
        return self._caller.call(request, replies.answer)

    def stream(
        self, prompt: str, images: ImageArgument = None, **sampling: Unpack[Sampling]
    ) -> AnswerStream:
        """The answer as it comes. The prompt is sent when iteration begins; leaving early cancels
        the turn, which then leaves no trace in the session."""
        request = wire.prompt(self.id, prompt, images, stream=True, **sampling)
        return AnswerStream(self._caller, request, on_abandon=wire.cancel_prompt(self.id))

    def cancel(self) -> bool:
        """End the running turn, from another thread. Returns whether one was running."""
        return self._caller.call(wire.cancel_prompt(self.id), replies.cancelled)

    def describe(self) -> Description:
        """The session's record, less its bytes, and where it is cached."""
        return self._caller.call(wire.describe_session(self.id), replies.description)

    def fork(self) -> Session:
        """Another session that has seen and said the same so far. From here on they differ, and
        each has a lifetime of its own. A running turn is not part of it.

        Raises:
            SessionEnded: closed or expired.
            ClientError: see ``errors``.
        """
        return Session(self._caller, self._caller.call(wire.fork_session(self.id), replies.opened))

    def rewind(self, turns: int = 1) -> int:
        """Take back the last turns, images and all. Returns how many are left.

        Raises:
            ConversationConflict: a prompt is running or waiting.
            InvalidRequest: there are not so many.
            ClientError: see ``errors``.
        """
        return self._caller.call(wire.rewind_session(self.id, turns), replies.rewound)

    def close(self) -> None:
        """End the session. Does nothing if it has ended already."""
        with suppress(SessionEnded):
            self._caller.call(wire.close_session(self.id), replies.closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
            return
        # What went wrong inside matters more than a session that expires by itself.
        with suppress(ClientError):
            self.close()


class AnswerStream(StreamedAnswer):
    """Iterates over an answer's pieces of text; afterwards ``answer`` is the whole of it.

    As a context manager it ends the turn when it is left early; so does dropping it.
    """

    def __init__(
        self, caller: _Caller, request: Request, on_abandon: Request | None = None
    ) -> None:
        super().__init__()
        # No reference to self: the generator must end with the last reference to this object.
        self._pieces = _pieces(caller, request, self._reader, on_abandon)

    def close(self) -> None:
        """Stop; the turn is cancelled unless it is finished."""
        self._pieces.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Caller:
    """A transport and the policy of retrying, shared by a client and its sessions."""

    def __init__(self, transport: Transport, retry: RetryPolicy) -> None:
        self._transport = transport
        self._retry = retry
        self.close = weakref.finalize(self, transport.close)

    def call(self, request: Request, parse: Callable[[Reply], T]) -> T:
        for num_tries in itertools.count(1):
            reply = self._transport.send(request)
            pause = self._retry.pause(request, reply, num_tries)
            if pause is None:
                break
            time.sleep(pause)
        return parse(reply)

    @contextmanager
    def stream(self, request: Request) -> Iterator[Iterator[bytes]]:
        for num_tries in itertools.count(1):
            with self._transport.stream(request) as reply:
                if reply.status < 400:
                    yield reply.chunks
                    return
                refused = Reply(reply.status, b"".join(reply.chunks), reply.retry_after)
            pause = self._retry.pause(request, refused, num_tries)
            if pause is None:
                raise replies.error_of(refused)
            time.sleep(pause)


def _pieces(
    caller: _Caller, request: Request, reader: AnswerReader, on_abandon: Request | None
) -> Generator[str]:
    with caller.stream(request) as chunks:
        try:
            for chunk in chunks:
                yield from reader.feed(chunk)
            reader.finish()
        except (GeneratorExit, KeyboardInterrupt):
            # Not every road (SageMaker's) tells the service that a connection was closed.
            if on_abandon is not None and reader.answer is None:
                with suppress(ClientError):
                    caller.call(on_abandon, replies.cancelled)
            raise
