"""The product in this process, for the client to talk to: endpoint, service, journal and engine are
real, and only the device's runner and the words are fakes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.client.loopback import Handler, serve_opened
from tests.support.fake_processor import FakeProcessor
from vlm_sessions.config import Settings
from vlm_sessions.endpoint import Endpoint
from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.local import LocalEngine
from vlm_sessions.engine.types import Plan
from vlm_sessions.metrics import Metrics
from vlm_sessions.service import SessionService


@dataclass
class Gate:
    """Holds the engine before each step while it is shut."""

    _open: threading.Event = field(default_factory=threading.Event)
    _reached: threading.Event = field(default_factory=threading.Event)
    _num_free: int | None = None
    """Steps that still pass before the gate shuts by itself; ``None``: it does not."""

    def __post_init__(self) -> None:
        self._open.set()

    def pass_through(self, _plan: Plan) -> None:
        if self._num_free == 0:
            self.shut()
        if self._num_free is not None:
            self._num_free -= 1
        self._reached.set()
        assert self._open.wait(timeout=30.0), "the gate was never opened again"

    def shut_after(self, num_steps: int) -> None:
        """Let an answer begin, and hold it before its end however fast the engine is."""
        self._num_free = num_steps

    def shut(self) -> None:
        self._num_free = None
        self._open.clear()
        self._reached.clear()

    def open(self) -> None:
        self._num_free = None
        self._open.set()

    def wait_reached(self) -> None:
        """Until the engine stands before the gate."""
        assert self._reached.wait(timeout=30.0), "the engine never came to the gate"


@contextmanager
def serve_product(
    state_dir: Path, gate: Gate, *, api_keys_file: Path | None = None
) -> Iterator[str]:
    """Gives the URL."""

    @asynccontextmanager
    async def product() -> AsyncIterator[Handler]:
        settings = Settings(
            state_dir=state_dir, max_queued_per_session=1, api_keys_file=api_keys_file
        )
        runner = FakeRunner(num_blocks=1024, before_step=gate.pass_through)
        engine = LocalEngine(lambda: runner, EngineLimits())
        service = SessionService(settings, engine, FakeProcessor())
        endpoint = Endpoint(
            service,
            settings,
            Metrics(),
            model="fake",
            engine_stats=service.engine_stats,
            num_open_sessions=lambda: service.num_open_sessions,
        )
        await service.start()
        try:
            yield endpoint.handle
        finally:
            await service.close()

    with serve_opened(product) as url:
        yield url
