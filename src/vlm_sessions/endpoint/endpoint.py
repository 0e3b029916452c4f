"""The endpoint: routes a request, reads its dialect, calls the service, writes the dialect.

    request ─▶ guard ─▶ route ─▶ dialect reads ─▶ service ─▶ dialect writes ─▶ reply
                 └────────────────── any VlmError ──────────────────┴─▶ its status, as JSON

It knows nothing of TorchServe, of tokens or of the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from vlm_sessions import metrics as prometheus
from vlm_sessions.config import Settings
from vlm_sessions.endpoint.exchange import Exchange
from vlm_sessions.endpoint.guard import Guard
from vlm_sessions.endpoint.openapi import openapi_json
from vlm_sessions.endpoint.ports import AnswerStream, Service
from vlm_sessions.endpoint.replies import error_reply, json_reply, with_common_headers
from vlm_sessions.endpoint.stream import StreamBody
from vlm_sessions.errors import (
    BadRequest,
    Draining,
    EngineUnavailable,
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    VlmError,
)
from vlm_sessions.logs import bound_context
from vlm_sessions.metrics import EngineFigures, Metrics
from vlm_sessions.protocol import eventstream, headers, sse
from vlm_sessions.protocol.dialects import (
    Call,
    ChatDialect,
    read_chat,
    read_invocation,
)
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.protocol.openai_reply import openai_models
from vlm_sessions.protocol.replies import HealthReply
from vlm_sessions.protocol.schema import (
    Answer,
    CancelPrompt,
    Chat,
    CloseSession,
    DescribeSession,
    ForkSession,
    Generate,
    Opened,
    OpenSession,
    Prompt,
    RewindSession,
)

_CLIENT_LEFT = 499
"""nginx's status for a client that left before its reply; in metrics and logs only."""


@dataclass(frozen=True, slots=True)
class _Route:
    """A path's one method and what answers it. ``name`` is its label in metrics and logs."""

    name: str
    method: str
    answer: Callable[[HttpRequest, Exchange], Awaitable[HttpReply]]


class Endpoint:
    """Answers every request; nothing but cancellation ever leaves ``handle``.

    Args:
        service: the session layer.
        settings: for the limit of a payload, the file of API keys, and whether content is logged.
        metrics: what it counts in, and what /metrics tells.
        model: the served model's name, as OpenAI's clients see it.
        engine_stats: fresh figures for /metrics.
        num_open_sessions: the same for the sessions, and for /ping.
        engine_stats_timeout_seconds: how long /metrics waits for them; then the last ones are told.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch.

    Raises:
        ConfigError: the file of API keys cannot be used.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        metrics: Metrics,
        *,
        model: str,
        engine_stats: Callable[[], Awaitable[EngineFigures]],
        num_open_sessions: Callable[[], int],
        engine_stats_timeout_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._guard = Guard.from_settings(settings)
        self._metrics = metrics
        self._engine_stats = engine_stats
        self._engine_stats_timeout_seconds = engine_stats_timeout_seconds
        self._num_open_sessions = num_open_sessions
        self._clock = clock
        self._log_content = settings.log_content
        self._max_payload_bytes = settings.max_payload_mb * 2**20
        self._model = model
        self._created = int(wall_clock())
        self._chat = ChatDialect(model, wall_clock)
        self._routes: Mapping[str, _Route] = {
            "/ping": _Route("ping", "GET", self._ping),
            "/metrics": _Route("metrics", "GET", self._tell_metrics),
            "/invocations": _Route("invocations", "POST", self._invoke),
            "/v1/chat/completions": _Route("chat_completions", "POST", self._complete_chat),
            "/v1/models": _Route("models", "GET", self._list_models),
            "/openapi.json": _Route("openapi", "GET", self._describe),
        }

    @property
    def routes(self) -> Mapping[str, str]:
        """Path -> its one method."""
        return {path: route.method for path, route in self._routes.items()}

    async def handle(self, request: HttpRequest) -> HttpReply:
        """Answer a request. A streamed reply is returned once its first event is known, so that
        whatever can be refused is refused with a status of its own.
        """
        route = self._routes.get(request.path)
        exchange = Exchange(
            request,
            route.name if route else "unknown",
            self._metrics,
            self._clock,
            log_content=self._log_content,
        )
        error: VlmError | None = None
        with bound_context(request_id=request.request_id):
            try:
                reply = await self._answer(route, request, exchange)
            except asyncio.CancelledError:
                exchange.finish(_CLIENT_LEFT, abandoned=True)
                raise
            except VlmError as exc:
                error = exc
            except Exception as exc:  # noqa: BLE001 - the boundary: a bug must not leave the door
                exchange.crashed(exc)
                error = Internal("An error of ours, now in the log. The session is as it was.")
            if error is not None:
                reply = error_reply(error, request, exchange.call, route.method if route else None)
            if isinstance(reply.body, bytes):
                exchange.finish(reply.status, error)
        return with_common_headers(reply, request)

    async def _answer(
        self, route: _Route | None, request: HttpRequest, exchange: Exchange
    ) -> HttpReply:
        exchange.client = self._guard.admit(request)
        if route is None:
            raise NotFound(f"There is nothing at this path. Known are {', '.join(self._routes)}.")
        if request.method != route.method:
            raise MethodNotAllowed(f"Use {route.method} on {request.path}.")
        if len(request.body) > self._max_payload_bytes:
            raise PayloadTooLarge(
                f"The body has {len(request.body)} bytes; at most {self._max_payload_bytes} are "
                "accepted. Send smaller images, or their URLs."
            )
        return await route.answer(request, exchange)

    # --- routes ---------------------------------------------------------------------------------

    async def _ping(self, _request: HttpRequest, _exchange: Exchange) -> HttpReply:
        if self._service.draining:
            raise Draining("The service is shutting down. Send requests to another one.")
        if not self._service.ready:
            raise EngineUnavailable("Not ready yet: the model is loading or being restarted.")
        health = HealthReply(
            status="Healthy",
            open_sessions=self._num_open_sessions(),
            prompts=self._service.num_prompts,
        )
        return json_reply(health.to_json())

    async def _describe(self, _request: HttpRequest, _exchange: Exchange) -> HttpReply:
        return json_reply(openapi_json())

    async def _tell_metrics(self, _request: HttpRequest, _exchange: Exchange) -> HttpReply:
        engine: EngineFigures | None = None
        try:
            async with asyncio.timeout(self._engine_stats_timeout_seconds):
                engine = await self._engine_stats()
        except TimeoutError:
            pass  # An engine that hangs is when the other metrics are wanted most.
        text = self._metrics.render(engine=engine, num_open_sessions=self._num_open_sessions())
        return HttpReply(200, {"content-type": prometheus.CONTENT_TYPE}, text)

    async def _list_models(self, _request: HttpRequest, _exchange: Exchange) -> HttpReply:
        return json_reply(openai_models(self._model, self._created))

    async def _invoke(self, request: HttpRequest, exchange: Exchange) -> HttpReply:
        return await self._obey(read_invocation(request, self._chat), request, exchange)

    async def _complete_chat(self, request: HttpRequest, exchange: Exchange) -> HttpReply:
        return await self._obey(read_chat(request, self._chat), request, exchange)

    # --- commands -------------------------------------------------------------------------------

    async def _obey(self, call: Call, request: HttpRequest, exchange: Exchange) -> HttpReply:
        reply = await self._reply_to(call, request, exchange)
        return eventstream.frame(reply) if eventstream.accepts_event_stream(request) else reply

    async def _reply_to(self, call: Call, request: HttpRequest, exchange: Exchange) -> HttpReply:
        exchange.understood(call)
        client = exchange.client
        match call.command:
            case OpenSession() as command:
                opened = await self._service.open(command, client=client)
                return _reply_opened(opened, call, exchange)
            case ForkSession():
                forked = await self._service.fork(_require_session(call), client=client)
                return _reply_opened(forked, call, exchange)
            case Generate() as command:
                stream = await self._service.generate(command, request.request_id, client=client)
                return await self._reply_with(stream, command.stream, call, exchange)
            case Chat() as command if call.session_id is None:
                stream = await self._service.generate(command, request.request_id, client=client)
                return await self._reply_with(stream, command.stream, call, exchange)
            case Prompt() | Chat() as command:
                session_id = _require_session(call)
                stream = await self._service.prompt(
                    session_id, command, request.request_id, client=client
                )
                return await self._reply_with(stream, command.stream, call, exchange)
            case CancelPrompt() | DescribeSession() | RewindSession() | CloseSession():
                return await self._manage(call, client)

    async def _manage(self, call: Call, client: str | None) -> HttpReply:
        """The commands on a session that compute nothing."""
        session_id = _require_session(call)
        match call.command:
            case CancelPrompt():
                cancelled = await self._service.cancel(session_id, client=client)
                return json_reply(
                    call.writer.cancelled(cancelled), headers.session_headers(cancelled.lifetime)
                )
            case DescribeSession():
                described = await self._service.describe(session_id, client=client)
                return json_reply(
                    call.writer.described(described), headers.session_headers(described.lifetime)
                )
            case RewindSession() as command:
                rewound = await self._service.rewind(session_id, command, client=client)
                return json_reply(
                    call.writer.rewound(rewound), headers.session_headers(rewound.lifetime)
                )
            case _:
                closed = await self._service.close_session(session_id, client=client)
                return json_reply(
                    call.writer.closed(closed), headers.closed_headers(closed.session_id)
                )

    async def _reply_with(
        self, stream: AnswerStream, streamed: bool, call: Call, exchange: Exchange
    ) -> HttpReply:
        events = exchange.watch(stream.events)
        # A refusal may come with the first event, and is then a status, not a broken stream.
        event = await anext(events)
        if streamed:
            return HttpReply(
                200,
                {
                    "content-type": sse.CONTENT_TYPE,
                    "cache-control": "no-cache",
                    **headers.session_headers(stream.lifetime),
                },
                StreamBody(event, events, call.writer, exchange),
            )
        async with aclosing(events):
            while not isinstance(event, Answer):
                event = await anext(events)
        return json_reply(
            call.writer.answer(event), headers.session_headers(event.lifetime or stream.lifetime)
        )


def _reply_opened(opened: Opened, call: Call, exchange: Exchange) -> HttpReply:
    exchange.opened(opened.lifetime.session_id)
    return json_reply(call.writer.opened(opened), headers.opened_headers(opened.lifetime))


def _require_session(call: Call) -> str:
    if call.session_id is None:
        raise BadRequest("This request needs a session: send X-Amzn-SageMaker-Session-Id.")
    return call.session_id
