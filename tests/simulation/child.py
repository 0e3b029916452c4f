"""An engine's process as its parent meets it: a process, a socket, and a death at any moment.

``EngineProcess`` and ``SpawnedEngine`` are the product's own, and so are the step loop and the
engine in the child. Simulated are the kernel's part, which is to start the process, carry frames
and end it, and the device.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tests.simulation.loop import SimulatedLoop
from tests.simulation.pictures import Picture
from tests.simulation.runner import DeviceFailed, EngineShape, SimulatedRunner
from tests.simulation.trace import Trace
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.fake import reference_answer
from vlm_sessions.engine.loop import EngineLoop
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    TokenOut,
    Turn,
)
from vlm_sessions.engine.wire import (
    LENGTH,
    Command,
    Events,
    Loaded,
    LoadFailed,
    Reply,
    Submit,
    decode_command,
    encode,
)

FIRST_PID = 1 << 23
"""No process has this number: whoever kills one by mistake kills nothing."""
SOCKET_SECONDS = 0.002
UNWANTED_SECONDS = 1.0
"""For so long a turn may still be computed after its client has left, if no step takes longer."""


@dataclass
class Device:
    """What befalls the engines of a service, one after another."""

    shape: EngineShape
    failure_rate: float = 0.0
    """Of each step."""
    load_failure_rate: float = 0.0
    load_seconds: float = 3.0


class SimulatedChild:
    """Stands for ``asyncio.subprocess.Process`` and for the writer to its socket."""

    def __init__(
        self,
        pid: int,
        loop: SimulatedLoop,
        random: Random,
        device: Device,
        *,
        wall: Callable[[], float],
        trace: Trace,
        pictures: Mapping[str, Picture],
        is_wanted: Callable[[str], bool],
    ) -> None:
        """``is_wanted``: whether somebody still waits for this turn."""
        self.pid = pid
        self.reader = asyncio.StreamReader(loop=loop)
        self.engine: Engine | None = None
        self._loop = loop
        self._random = random
        self._device = device
        self._wall = wall
        self._trace = trace
        self._pictures = pictures
        self._is_wanted = is_wanted
        self._unwanted_since: dict[str, float] = {}
        """turn_id -> when nobody was seen to wait for it any more"""
        self._steps = EngineLoop(self._reply)
        self._exited = loop.create_future()
        self._frozen = False
        self._is_stepping = False
        self._last_arrival = 0.0
        self._outbox: deque[bytes] = deque()
        """Frames that have left the engine and not reached the parent."""
        self._turns: dict[str, tuple[Turn, list[int]]] = {}
        loop.call_later(random.uniform(0, device.load_seconds), self._load)

    # --- seen from its parent -------------------------------------------------------------------

    async def wait(self) -> int:
        await asyncio.shield(self._exited)
        return 0

    def write(self, frame: bytes) -> None:
        command = decode_command(frame[LENGTH.size :])
        soon = self._loop.time() + self._random.uniform(0, SOCKET_SECONDS)
        self._last_arrival = max(self._last_arrival, soon)
        self._loop.call_at(self._last_arrival, self._arrive, command)

    def close(self) -> None:
        self._loop.call_later(self._random.uniform(0, 3.0), self.die)

    def is_closing(self) -> bool:
        return self._exited.done()

    # --- what befalls it ------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return not self._exited.done()

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.engine.has_work

    def die(self) -> None:
        """Be killed: of what was on its way to the parent, any part arrives."""
        if self._exited.done():
            return
        self._trace.add(self._loop.time(), f"engine {self.pid - FIRST_PID} dies")
        left = b"".join(self._outbox)
        self._outbox.clear()
        self.reader.feed_data(left[: self._random.randint(0, len(left))])
        self.reader.feed_eof()
        self._exited.set_result(None)

    def freeze(self, seconds: float) -> None:
        """Be stopped (SIGSTOP), and continued after a while."""
        self._frozen = True
        self._loop.call_later(seconds, self._thaw)

    def _thaw(self) -> None:
        self._frozen = False
        self._wake()

    # --- within ---------------------------------------------------------------------------------

    def _load(self) -> None:
        if not self.is_alive:
            return
        luck = self._random.random()
        if luck < self._device.load_failure_rate:
            if luck < self._device.load_failure_rate / 2:
                self._reply(LoadFailed("DeviceFailed: out of memory"))
                self._send_all()
            self.die()
            return
        runner = SimulatedRunner(
            self._device.shape, self._random, failure_rate=self._device.failure_rate
        )
        self._runner = runner
        self.engine = Engine(
            runner,
            self._device.shape.limits,
            monotonic=lambda: self._loop.time() + runner.busy_seconds,
            wall=self._wall,
        )
        self._reply(Loaded(self.engine.info))
        self._send_all()
        self._wake()

    def _arrive(self, command: Command) -> None:
        if self.is_alive:
            if isinstance(command, Submit):
                self._turns[command.turn.turn_id] = command.turn, []
            self._steps.put(command)
            self._wake()

    def _wake(self) -> None:
        if self.engine is not None and not self._is_stepping:
            self._is_stepping = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._is_stepping = False
        if self._frozen or not self.is_alive:
            return
        assert self.engine is not None
        self._runner.failure_rate = self._device.failure_rate
        try:
            self._steps.advance(self.engine)
        except DeviceFailed:
            self._send_all()
            self.die()
            return
        self.engine.check_integrity()
        self._check_wanted()
        seconds, self._runner.busy_seconds = self._runner.busy_seconds, 0.0
        self._loop.call_later(seconds, self._send_all)
        if self.engine.has_work:
            self._is_stepping = True
            self._loop.call_later(seconds, self._step)

    def _reply(self, reply: Reply) -> None:
        if isinstance(reply, Events):
            for event in reply.events:
                self._check(event)
        self._outbox.append(encode(reply))

    def _send_all(self) -> None:
        """What is in the socket's buffer is the parent's, whatever happens to the child."""
        if self.is_alive:
            while self._outbox:
                self.reader.feed_data(self._outbox.popleft())

    def _check_wanted(self) -> None:
        """An engine that is told nothing of a client that has left goes on for nobody."""
        now = self._loop.time()
        unwanted = [turn_id for turn_id in self._turns if not self._is_wanted(turn_id)]
        self._unwanted_since = {
            turn_id: self._unwanted_since.get(turn_id, now) for turn_id in unwanted
        }
        for turn_id, since in self._unwanted_since.items():
            assert now - since < UNWANTED_SECONDS, f"{turn_id} is computed for nobody"

    def _check(self, event: Event) -> None:
        """Every answer is that of an engine that caches nothing and has nothing else to do."""
        match event:
            case TokenOut():
                self._turns[event.turn_id][1].append(event.token)
            case Failed():
                self._turns.pop(event.turn_id)
            case Finished():
                turn, tokens = self._turns.pop(event.turn_id)
                shape = self._device.shape
                expected = reference_answer(
                    turn,
                    {digest: picture.pixels for digest, picture in self._pictures.items()},
                    eos_every=shape.eos_every,
                    max_context=shape.max_context,
                )
                if event.reason is FinishReason.CANCELLED:
                    expected = expected[: len(tokens)]
                assert tokens == expected, f"{turn.turn_id} was answered otherwise"
            case _:
                pass
