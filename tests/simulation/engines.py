"""The engine alone under seeded random use, for as long as one likes.

What hypothesis does for forty moves at a time (``tests/unit/engine/test_invariants.py``), this does
for thousands in one engine's life, with sizes, policies and pacing drawn anew for each: what only
comes up after a long time, in caches that have been full for long, comes up here. It does not
shrink what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.simulation.conversations import Conversations
from tests.simulation.runner import DeviceFailed, EngineShape, SimulatedRunner
from tests.simulation.trace import Trace
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.fake import fake_pixels, reference_answer
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PixelsNeeded,
    Prefilled,
    Retention,
    TokenOut,
    Turn,
)

KEYS = "uvwxyz"
MAX_IN_FLIGHT = 10
MAX_STEPS_OF_A_TURN = 4000
"""Of the engine, between a turn's submission and its end; it is owed its pixels all that time."""


@dataclass
class _Running:
    turn: Turn
    since: int
    tokens: list[int] = field(default_factory=list)
    prefilled: Prefilled | None = None
    wanted: set[str] = field(default_factory=set)


class EngineWorld:
    """One engine, replaced when its device fails, and those who use it."""

    def __init__(self, seed: int | str) -> None:
        self.trace = Trace()
        self.num_steps = 0
        """Moves and steps of the engine, each followed by a check of all that it keeps."""
        self._random = Random(f"engine {seed}")
        self._now = 1000.0
        self._wall_offset = 1e9
        self._num_turns = 0
        self._failure_rate = self._random.choice([0.0, 0.0, 0.001])
        self.shape = EngineShape.drawn(self._random)
        self._conversations = Conversations(self._random)
        self._start_engine()

    def run(self, num_steps: int) -> None:
        """Do random things, then let everything come to its end.

        Raises:
            AssertionError: something does not hold.
        """
        moves = {
            self._submit: 5,
            self._step: 40,
            self._answer: 12,
            self._cancel: 2,
            self._release: 2,
            self._clear: 0.2,
            self._pass_time: 3,
            self._set_clock: 0.3,
            self._locate: 1,
        }
        for move in self._random.choices(list(moves), list(moves.values()), k=num_steps):
            self._do(move)
        self._come_to_rest()

    # --- moves ----------------------------------------------------------------------------------

    def _do(self, move: object) -> None:
        assert callable(move)
        self.num_steps += 1
        try:
            move()
        except DeviceFailed:
            self.trace.add(self._now, "the device failed")
            self._start_engine()
        self._check()

    def _submit(self) -> None:
        """One turn, or several at once that begin alike, as of those who opened one picture."""
        beginning = self._conversations.beginning()
        for _ in range(self._random.choice([1, 1, 2, 3])):
            if len(self._running) >= MAX_IN_FLIGHT:
                return
            tokens, images = self._conversations.continued(beginning)
            retention = None
            if self._random.random() < 0.5:
                until = self._wall() + self._random.uniform(-50, 300)
                retention = Retention(self._random.choice(KEYS), until)
            self._num_turns += 1
            turn_id = f"turn-{self._num_turns}"
            turn = Turn(turn_id, tokens, images, self._conversations.sampling(), retention)
            self._running[turn_id] = _Running(turn, self._engine_steps)
            self._hear(self.engine.add(turn))

    def _step(self) -> None:
        if self.engine.has_work:
            self._engine_steps += 1
            events = self.engine.step()
            self._now += self._runner.busy_seconds
            self._runner.busy_seconds = 0.0
            self._hear(events)

    def _answer(self) -> None:
        wanted = sorted({digest for each in self._running.values() for digest in each.wanted})
        if wanted:
            self._give_pixels(self._random.choice(wanted))

    def _cancel(self) -> None:
        turn_id = self._random.choice([*self._running, "turn-0"])
        self._hear(self.engine.cancel(turn_id))

    def _release(self) -> None:
        self.engine.release(self._random.choice(KEYS))

    def _clear(self) -> None:
        self.engine.clear()

    def _pass_time(self) -> None:
        self._now += self._random.expovariate(1 / 20)

    def _set_clock(self) -> None:
        self._wall_offset += self._random.choice([-3600.0, -30.0, 30.0, 3600.0])

    def _locate(self) -> None:
        tokens, images = self._conversations.beginning()
        location = self.engine.locate(tokens, images)
        assert 0 <= location.kv_tokens + location.host_kv_tokens <= len(tokens)

    # --- what must hold -------------------------------------------------------------------------

    def _check(self) -> None:
        self.engine.check_integrity()
        images = self.engine.scheduler.caches.images
        for digest in images.features._sizes:
            assert digest in self._runner.features or not images.encoding.is_ready(digest)
        if not images.features.has_moves:
            assert set(images.features._stored) == set(self._runner.host_features)
        for each in self._running.values():
            num_steps = self._engine_steps - each.since
            assert num_steps < MAX_STEPS_OF_A_TURN, f"{each.turn.turn_id} does not come to an end"

    def _come_to_rest(self) -> None:
        """Answer all that is asked, and see that nothing is left but caches."""
        self._runner.failure_rate = 0.0
        for _ in range(MAX_STEPS_OF_A_TURN):
            for digest in sorted({d for each in self._running.values() for d in each.wanted}):
                self._give_pixels(digest)
            if not self.engine.has_work:
                break
            self._do(self._step)
        assert not self._running, f"these turns never end: {sorted(self._running)}"
        self._wall_offset += 1e6
        self.engine.scheduler.caches.expire()
        self._check()
        stats = self.engine.stats()
        assert (stats.running, stats.waiting, stats.blocks_in_use) == (0, 0, 0)
        assert stats.blocks_retained == 0, "retentions have lapsed"
        images = self.engine.scheduler.caches.images
        assert not images.features.users(), "nobody holds features"
        assert not images.features._wishes._digests, "wishes have lapsed"
        assert images.pixels.num_pins == 0
        self.engine.clear()
        self._do(self._step)  # the runner is told what to drop
        stats = self.engine.stats()
        assert (stats.blocks_cached, stats.host_blocks_stored) == (0, 0)
        assert (stats.features_cached, stats.host_features_stored, stats.pixels_cached) == (0, 0, 0)
        self._check()

    # --- within ---------------------------------------------------------------------------------

    def _start_engine(self) -> None:
        self._runner = SimulatedRunner(self.shape, self._random, failure_rate=self._failure_rate)
        self.engine = Engine(
            self._runner,
            self.shape.limits,
            monotonic=lambda: self._now + self._runner.busy_seconds,
            wall=self._wall,
        )
        self._running: dict[str, _Running] = {}
        self._engine_steps = 0

    def _wall(self) -> float:
        return self._now + self._wall_offset

    def _give_pixels(self, digest: str) -> None:
        for each in self._running.values():
            each.wanted.discard(digest)
        self.engine.put_pixels(fake_pixels(digest))

    def _hear(self, events: list[Event]) -> None:
        for event in events:
            self.trace.add(self._now, repr(event))
            running = self._running[event.turn_id]
            match event:
                case PixelsNeeded():
                    running.wanted.add(event.digest)
                case Prefilled():
                    assert running.prefilled is None
                    assert not running.tokens
                    running.prefilled = event
                case TokenOut():
                    assert running.prefilled is not None
                    running.tokens.append(event.token)
                case Finished():
                    self._conclude(self._running.pop(event.turn_id), event.reason)
                case Failed():
                    self._conversations.forget()
                    needed = len(running.turn.tokens) + min(1, running.turn.sampling.max_new_tokens)
                    assert needed > self.shape.max_context, event.message
                    del self._running[event.turn_id]

    def _conclude(self, over: _Running, reason: FinishReason) -> None:
        expected = reference_answer(
            over.turn, eos_every=self.shape.eos_every, max_context=self.shape.max_context
        )
        if reason is FinishReason.CANCELLED:
            assert over.tokens == expected[: len(over.tokens)]
            return
        assert over.tokens == expected, f"{over.turn.turn_id} was answered otherwise"
        assert over.prefilled is not None
        num_left = len(over.turn.tokens) - over.prefilled.cached_tokens
        assert num_left >= bool(over.turn.sampling.max_new_tokens)
        self._conversations.remember(over.turn, over.tokens)
