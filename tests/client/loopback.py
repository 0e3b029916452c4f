"""A service on loopback, and SageMaker's front door before it, for the client to talk to.

``serve`` puts any handler of ``HttpRequest`` behind real sockets: the product's own ``Endpoint``,
or a script. Besides ``/invocations`` it answers as SageMaker's runtime API does, as far as the
client can tell: literal NEW_SESSION taken away, every error of the container turned into a
ModelError with status 424, streams framed as ``application/vnd.amazon.eventstream``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from aiohttp import ClientSession, web

from vlm_sessions.protocol.eventstream import CONTENT_TYPE, payload_parts
from vlm_sessions.protocol.http import HttpReply, HttpRequest

Handler = Callable[[HttpRequest], Awaitable[HttpReply]]
SESSION_ID = "x-amzn-sagemaker-session-id"


class Loopback:
    """Args:
    handler: what answers.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._num_requests = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/endpoints/{name}/invocations", self._invoke_endpoint)
        app.router.add_post(
            "/endpoints/{name}/invocations-response-stream", self._invoke_endpoint_with_stream
        )
        app.router.add_route("*", "/{path:.*}", self._plain)
        return app

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        reply = await self._handler(await self._read(request, request.path))
        if isinstance(reply.body, bytes):
            return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        async for chunk in reply.body:
            await response.write(chunk)
        return response

    async def _invoke_endpoint(self, request: web.Request) -> web.StreamResponse:
        reply = await self._handler(await self._read(request, "/invocations"))
        body = await _whole(reply)
        if reply.status >= 400:
            return _model_error(reply.status, body)
        return web.Response(headers=reply.headers, body=body)

    async def _invoke_endpoint_with_stream(self, request: web.Request) -> web.StreamResponse:
        reply = await self._handler(await self._read(request, "/invocations"))
        if reply.status >= 400:
            return _model_error(reply.status, await _whole(reply))
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await response.prepare(request)
        async for chunk in _chunks(reply):
            for message in payload_parts(chunk):
                await response.write(message)
        return response

    async def _read(self, request: web.Request, path: str) -> HttpRequest:
        self._num_requests += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers.get(SESSION_ID) == "NEW_SESSION":
            del headers[SESSION_ID]
        return HttpRequest(
            request_id=f"r{self._num_requests}",
            method=request.method,
            path=path,
            headers=headers,
            body=await request.read(),
        )


@contextmanager
def serve(handler: Handler) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1, in a thread with a loop of its own; gives the URL."""

    @asynccontextmanager
    async def as_it_is() -> AsyncIterator[Handler]:
        yield handler

    with serve_opened(as_it_is) as url:
        yield url


@contextmanager
def serve_opened(open_handler: Callable[[], AbstractAsyncContextManager[Handler]]) -> Iterator[str]:
    """As ``serve``, for a handler that must begin and end on the loop that it runs on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ready: Future[str] = Future()
    done = asyncio.Event()
    serving = asyncio.run_coroutine_threadsafe(_serve(open_handler, ready, done), loop)

    def report_failure(ended: Future[None]) -> None:
        if not ready.done():
            ready.set_exception(ended.exception() or RuntimeError("it ended before it was ready"))

    serving.add_done_callback(report_failure)
    try:
        yield ready.result()
    finally:
        loop.call_soon_threadsafe(done.set)
        serving.result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(
    open_handler: Callable[[], AbstractAsyncContextManager[Handler]],
    ready: Future[str],
    done: asyncio.Event,
) -> None:
    async with open_handler() as handler:
        runner = web.AppRunner(Loopback(handler).app(), shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        ready.set_result(f"http://{host}:{port}")
        await done.wait()
        await runner.cleanup()


def _model_error(status: int, body: bytes) -> web.Response:
    return web.json_response(
        {
            "Message": f"Received error ({status}) from primary",
            "OriginalStatusCode": status,
            "OriginalMessage": body.decode()[:2048],
        },
        status=424,
        headers={"x-amzn-errortype": "ModelError"},
    )


async def _chunks(reply: HttpReply) -> AsyncIterator[bytes]:
    if isinstance(reply.body, bytes):
        yield reply.body
        return
    async for chunk in reply.body:
        yield chunk


async def _whole(reply: HttpReply) -> bytes:
    return b"".join([chunk async for chunk in _chunks(reply)])


def forward_to(url: str) -> Handler:
    """A handler that lets another service answer, so that SageMaker's door stands before it."""

    async def forward(request: HttpRequest) -> HttpReply:
        kept = ("content-type", SESSION_ID)
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with (
            ClientSession() as http,
            http.request(
                request.method, url + request.path, headers=headers, data=request.body
            ) as reply,
        ):
            received = {name.lower(): value for name, value in reply.headers.items()}
            passed = {name: value for name, value in received.items() if name.startswith("x-amzn")}
            return HttpReply(reply.status, passed, await reply.read())

    return forward
