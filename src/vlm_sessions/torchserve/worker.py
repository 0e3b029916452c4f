"""The life of TorchServe's worker: start the service, answer requests, drain and end.

TorchServe calls ``initialize`` in the main thread, before its event loop runs, and ``handle`` as a
coroutine on the main thread's loop. So ``Worker.start`` makes that loop and starts the service on
it; TorchServe then runs the same loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vlm_sessions.config import (
    ABORTS_SOCKET,
    DRAINED_MARK,
    LOG_SOCKET,
    RUN_DIR_VARIABLE,
    Settings,
)
from vlm_sessions.errors import ConfigError, VlmError
from vlm_sessions.protocol.http import HttpReply, HttpRequest
from vlm_sessions.torchserve.aborts import listen_for_aborts
from vlm_sessions.torchserve.answering import Answering
from vlm_sessions.torchserve.console import redirect_stderr
from vlm_sessions.torchserve.draining import Draining, DrainTimes
from vlm_sessions.torchserve.exchange import Encoder, read_request, write_failure, write_reply
from vlm_sessions.torchserve.frontend import FrontEndSocket

MIN_START_SECONDS = 0.6
"""The front end restarts a worker for ever whose model has loaded sooner (an unset latch)."""
ORPHAN_CLOSE_SECONDS = 5.0
"""For the service to close when the front end has gone, and nobody waits for any reply."""

_logger = logging.getLogger(__name__)


class App(Protocol):
    """The service behind the adapter."""

    async def start(self) -> None: ...
    async def handle(self, request: HttpRequest) -> HttpReply: ...

    async def cancel_request(self, request_id: str) -> bool:
        """The client of this request has left. Unknown ids are ignored."""
        ...

    def announce_drain(self) -> None:
        """Let /ping fail, so that no more is sent here. Everything is answered as before."""
        ...

    def begin_drain(self) -> None:
        """Refuse new work; what runs or waits goes on."""
        ...

    async def close(self) -> None:
        """End everything, and tell whoever still waits for an answer."""
        ...


class NoMetrics:
    """In place of TorchServe's metrics, which it copies with the context for every request."""

    request_ids: object = None

    def add_time(self, name: str, value: float) -> None:
        """Ignore it: /metrics has our own."""


class Worker:
    """Joins one ``App`` to one TorchServe worker process.

    Args:
        encode: TorchServe's ``create_predict_response``.
        environ: has the settings, and the supervisor's directory of sockets, if there is one.
    """

    def __init__(self, encode: Encoder, environ: Mapping[str, str]) -> None:
        self._encode = encode
        self._environ = environ
        self._run_dir = Path(environ[RUN_DIR_VARIABLE]) if RUN_DIR_VARIABLE in environ else None
        if self._run_dir is not None:
            redirect_stderr(self._run_dir / LOG_SOCKET)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._app: App | None = None
        self._answering = Answering()
        self._draining: Draining | None = None

    def adopt(self, context: Any, service_class: Any) -> None:
        """Take over what TorchServe would do badly: its socket's writing, its copied metrics.

        Args:
            context: the one that ``initialize`` was given, copied for every request from now on.
            service_class: ``ts.service.Service``, which is handed the socket once the model
                has loaded.
        """
        context.metrics = NoMetrics()
        set_socket = service_class.set_cl_socket

        def set_wrapped_socket(service: Any, sock: socket.socket) -> None:
            set_socket(service, FrontEndSocket(sock, self._end))

        service_class.set_cl_socket = set_wrapped_socket

    def start(self, build: Callable[[Settings], App]) -> None:
        """Start the service on the main thread's event loop, and return once it can answer.

        Raises:
            VlmError, ConfigError: the service could not start; the message says why.
        """
        begun = time.monotonic()
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe logs a line for each request
        asyncio.set_event_loop(self._loop)
        try:
            settings = Settings.from_env(self._environ)
            self._app = build(settings)
            self._loop.run_until_complete(self._start(self._app, DrainTimes.of(settings)))
        except (VlmError, ConfigError) as exc:
            sys.stderr.write(f"The service cannot start: {exc}\n")
            sys.stderr.flush()
            raise
        time.sleep(max(0.0, MIN_START_SECONDS - (time.monotonic() - begun)))

    async def _start(self, app: App, times: DrainTimes) -> None:
        if self._run_dir is not None:
            await listen_for_aborts(self._run_dir / ABORTS_SOCKET, self._cancel)
        await app.start()
        self._loop.add_signal_handler(signal.SIGTERM, self._terminate, app, times)

    async def handle(self, data: list[Mapping[str, Any]], context: Any) -> list[str]:
        """Answer one request. Never raises; what it returns is not sent (``FrontEndSocket``)."""
        assert self._app is not None
        sender: FrontEndSocket = context.cl_socket
        with self._answering.one():
            try:
                request = read_request(data, context)
                reply = await self._answering.reply(request, self._app.handle)
                await write_reply(reply, context, self._encode, sender)
            except ConnectionError:
                _logger.debug("the front end has gone")
            except Exception:
                # The boundary to TorchServe: an exception here would leave the request unanswered.
                _logger.exception("a request could not be answered")
                await write_failure(context, self._encode, sender)
        return [""]

    def _cancel(self, request_id: str) -> None:
        if self._app is None:
            return
        task = self._loop.create_task(self._app.cancel_request(request_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _terminate(self, app: App, times: DrainTimes) -> None:
        """What SIGTERM does: drain, then end. The second time: hurry."""
        if self._draining is not None:
            self._draining.hurry()
            return
        self._draining = Draining(self._answering, times)
        self._exiting = self._loop.create_task(self._drain_and_exit(app, self._draining))

    async def _drain_and_exit(self, app: App, draining: Draining) -> None:
        """Leave without waiting for TorchServe's threads, which never end."""
        try:
            app.announce_drain()
            sys.stderr.write(f"Draining: {self._answering.num} answers running.\n")
            sys.stderr.flush()
            await draining.wait(app.begin_drain)
            await draining.end(app.close, self._tell_drained)
        except Exception:
            _logger.exception("the service did not close in order")
        finally:
            os._exit(0)

    def _tell_drained(self) -> None:
        if self._run_dir is not None:
            (self._run_dir / DRAINED_MARK).touch()

    def _end(self) -> None:
        """End this process, from another thread: without a front end it has no purpose.

        TorchServe would not: two of its threads wait for ever; the orphan would keep the device.
        """
        closing = asyncio.run_coroutine_threadsafe(self._close_and_exit(), self._loop)
        with contextlib.suppress(TimeoutError):
            closing.result(ORPHAN_CLOSE_SECONDS + 1)
        os._exit(1)  # the loop does not answer

    async def _close_and_exit(self) -> None:
        try:
            if self._app is not None:
                await asyncio.wait_for(self._app.close(), ORPHAN_CLOSE_SECONDS)
        except Exception:
            _logger.exception("the service did not close in order")
        finally:
            os._exit(0)
