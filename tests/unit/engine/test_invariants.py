"""Whatever happens in whatever order, every answer is that of an uncached run, alone.

A hypothesis state machine opens conversations on few images and few words, so that prefixes collide
all the time, in a pool so small that turns preempt each other and caches are evicted constantly. It
continues, cancels, retains, releases, clears and lets time pass, and checks after each move that
the accounting holds, and at the end of each turn that its tokens are those of the reference.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.engine.helpers import Bench, Heard, followed_by, turn
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.fake import FakeRunner, fake_pixels, reference_answer
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import Finished, FinishReason, Sampling, Turn

EOS_EVERY = 9
MAX_CONTEXT = 60

words = st.lists(st.integers(3, 5), min_size=0, max_size=9)
pictures = st.tuples(st.sampled_from(["cat", "dog", "cow"]), st.integers(1, 9))
parts = st.lists(st.one_of(words, pictures), min_size=0, max_size=4)
samplings = st.builds(
    Sampling,
    max_new_tokens=st.integers(0, 9),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    ignore_eos=st.booleans(),
)
retentions = st.one_of(
    st.none(), st.tuples(st.sampled_from("xyz"), st.floats(900, 1500, allow_nan=False))
)


class EngineMachine(RuleBasedStateMachine):
    num_host_blocks = 0
    num_host_features = 0
    eviction = Eviction.LRU
    encode_steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(
            runner=FakeRunner(
                num_blocks=20,
                block_size=3,
                num_host_blocks=self.num_host_blocks,
                host_feature_bytes=self.num_host_features * FakeRunner.feature_bytes_per_token,
                encode_steps=self.encode_steps,
                max_context=MAX_CONTEXT,
                eos_every=EOS_EVERY,
            ),
            limits=EngineLimits(
                eviction=self.eviction,
                max_loads_per_step=2,
                max_batch_tokens=7,
                max_running=4,
                max_images_encoding=2,
                feature_bytes=10 * FakeRunner.feature_bytes_per_token,
                pixel_bytes=20,
            ),
            answers_pixels=False,
        )
        self.in_flight: dict[str, Turn] = {}
        self.finished: list[tuple[Turn, list[int]]] = []
        self.num_turns = 0
        self.num_asked: dict[str, int] = {}

    # --- moves ----------------------------------------------------------------------------------

    @rule(parts=parts, sampling=samplings, retention=retentions)
    def open_conversation(
        self,
        parts: list[list[int] | tuple[str, int]],
        sampling: Sampling,
        retention: tuple[str, float] | None,
    ) -> None:
        # An image's number of tokens belongs to its content, as it does in the product.
        named = [p if isinstance(p, list) else (f"{p[0]}-{p[1]}", p[1]) for p in parts]
        self._submit(turn(self._next_id(), *named, 6, sampling=sampling, retain=retention))

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), more=words, sampling=samplings)
    def continue_conversation(
        self, data: st.DataObject, more: list[int], sampling: Sampling
    ) -> None:
        previous, answer = data.draw(st.sampled_from(self.finished))
        following = followed_by(previous, answer, *more, 6, turn_id=self._next_id())
        if len(following.tokens) < MAX_CONTEXT:
            self._submit(following)

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), more=words, sampling=samplings)
    def go_back_and_say_something_else(
        self, data: st.DataObject, more: list[int], sampling: Sampling
    ) -> None:
        """As a rewound session does, or one of two that were forked."""
        previous, answer = data.draw(st.sampled_from(self.finished))
        whole = (*previous.tokens, *answer)
        images = previous.images[: data.draw(st.integers(0, len(previous.images)))]
        first = images[-1].start + images[-1].length if images else 0
        last = previous.images[len(images)].start if images != previous.images else len(whole)
        tokens = (*whole[: data.draw(st.integers(first, last))], *more, 6)
        self._submit(Turn(self._next_id(), tokens, images, sampling, previous.retention))

    @rule(num_steps=st.integers(1, 6))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.bench.engine.has_work:
                self.bench.step()
        self._collect()

    @rule(data=st.data())
    def answer_pixels(self, data: st.DataObject) -> None:
        wanted = sorted(
            {digest for turn_id in self.in_flight for digest in self.bench.heard[turn_id].asked_for}
        )
        if wanted:
            self.bench.engine.put_pixels(fake_pixels(data.draw(st.sampled_from(wanted))))

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.bench.cancel(turn_id)
        self._collect()

    @rule(key=st.sampled_from("xyz"))
    def release(self, key: str) -> None:
        self.bench.engine.release(key)

    @rule()
    def clear(self) -> None:
        self.bench.engine.clear()

    @rule(seconds=st.floats(0, 100, allow_nan=False))
    def pass_time(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_accounting_holds(self) -> None:
        self.bench.engine.check_integrity()

    @invariant()
    def the_runner_has_the_features_that_the_engine_counts(self) -> None:
        images = self.bench.engine.scheduler.caches.images
        for digest in images.features._sizes:
            assert digest in self.bench.runner.features or not images.encoding.is_ready(digest)
        if not images.features.has_moves:
            assert set(images.features._stored) == set(self.bench.runner.host_features)

    def teardown(self) -> None:
        for _ in range(2000):
            for turn_id in self.in_flight:
                for digest in self.bench.heard[turn_id].asked_for:
                    self.bench.engine.put_pixels(fake_pixels(digest))
            if not self.bench.engine.has_work:
                break
            self.bench.step()
            self._collect()
        assert not self.in_flight, "every turn comes to an end"
        assert self.bench.engine.stats().blocks_in_use == 0
        self.bench.engine.check_integrity()

    # --- within ---------------------------------------------------------------------------------

    def _next_id(self) -> str:
        self.num_turns += 1
        return f"turn-{self.num_turns}"

    def _submit(self, new: Turn) -> None:
        self.in_flight[new.turn_id] = new
        self.bench.add(new)
        self._collect()

    def _collect(self) -> None:
        for turn_id, heard in list(self.bench.heard.items()):
            if heard.end is not None:
                self._check_answer(self.in_flight.pop(turn_id), heard)
                del self.bench.heard[turn_id]

    def _check_answer(self, over: Turn, heard: Heard) -> None:
        expected = reference_answer(over, eos_every=EOS_EVERY, max_context=MAX_CONTEXT)
        assert isinstance(heard.end, Finished)
        if heard.end.reason is FinishReason.CANCELLED:
            assert heard.tokens == expected[: len(heard.tokens)]
            return
        assert heard.tokens == expected
        assert heard.prefilled is not None
        num_left = len(over.tokens) - heard.prefilled.cached_tokens
        assert num_left >= bool(over.sampling.max_new_tokens), "a token is computed to draw after"
        self.finished.append((over, heard.tokens))


class EngineWithHostMachine(EngineMachine):
    """What leaves the device goes on to a host with little room, and comes back bit by bit."""

    num_host_blocks = 14
    num_host_features = 12
    eviction = Eviction.COST


MANY = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
EngineMachine.TestCase.settings = MANY
EngineWithHostMachine.TestCase.settings = MANY
TestEngineMachine = EngineMachine.TestCase
TestEngineWithHostMachine = EngineWithHostMachine.TestCase
