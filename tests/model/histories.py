"""Random lives of sessions: what a client might do, and what might befall the caches meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.model.dialogue import Dialogue
from tests.model.judge import Judge
from tests.model.tiny import noise_image
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PixelsNeeded,
    Retention,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.processing import Processor

QUESTIONS = ("What?", "And behind it?", "How many cats are there?")
NUM_PICTURES = 3
MAX_SESSIONS = 6


@dataclass(frozen=True)
class Ask:
    """A prompt of session ``session``; sessions are counted round and round."""

    session: int
    question: int
    picture: int | None
    retain: bool
    max_new_tokens: int
    ignore_eos: bool
    delay: int
    """Steps of the round that pass before it is sent."""
    cancel_after: int | None
    """Steps after which the client leaves."""


@dataclass(frozen=True)
class Fork:
    session: int


@dataclass(frozen=True)
class Rewind:
    session: int
    turns: int


@dataclass(frozen=True)
class Close:
    """A session ends, and another one begins in its place."""

    session: int


@dataclass(frozen=True)
class DropCaches:
    pass


Action = Fork | Rewind | Close | DropCaches
_SESSION = st.integers(0, MAX_SESSIONS - 1)


def asks() -> st.SearchStrategy[Ask]:
    return st.builds(
        Ask,
        session=_SESSION,
        question=st.integers(0, len(QUESTIONS) - 1),
        picture=st.none() | st.integers(0, NUM_PICTURES - 1),
        retain=st.booleans(),
        max_new_tokens=st.sampled_from([0, 1, 6, 24]),
        ignore_eos=st.booleans(),
        delay=st.sampled_from([0, 0, 1, 3]),
        cancel_after=st.none() | st.none() | st.integers(0, 4),
    )


def actions() -> st.SearchStrategy[Action]:
    return st.one_of(
        st.builds(Fork, _SESSION),
        st.builds(Rewind, _SESSION, st.integers(1, 2)),
        st.builds(Close, _SESSION),
        st.builds(DropCaches),
    )


@dataclass(frozen=True)
class Round:
    """What happens between prompts, then prompts that are answered together."""

    actions: tuple[Action, ...]
    asks: tuple[Ask, ...]


def histories(max_rounds: int = 4) -> st.SearchStrategy[list[Round]]:
    round_ = st.builds(
        Round,
        actions=st.lists(actions(), max_size=2).map(tuple),
        asks=st.lists(asks(), min_size=3, max_size=5, unique_by=lambda ask: ask.session).map(tuple),
    )
    return st.lists(round_, min_size=2, max_size=max_rounds)


@dataclass
class _Running:
    """A prompt that was sent."""

    ask: Ask
    dialogue: Dialogue
    answer: list[int] = field(default_factory=list)
    reason: FinishReason | None = None


class Life:
    """Plays a history against an engine and lets the judge look at every answer."""

    def __init__(self, engine: Engine, processor: Processor, judge: Judge) -> None:
        self._engine = engine
        self._processor = processor
        self._judge = judge
        self._sessions: list[Dialogue] = [Dialogue(f"s{n}") for n in range(4)]
        self._num_made = 4
        self._num_prompts = 0

    def live(self, history: Sequence[Round]) -> None:
        for each in history:
            for action in each.actions:
                self._act(action)
            self._answer(each.asks)
            self._engine.check_integrity()
        while self._engine.has_work:  # an image whose client has left
            self._take(self._engine.step(), {})

    def _act(self, action: Action) -> None:
        match action:
            case Fork() if len(self._sessions) < MAX_SESSIONS:
                self._sessions.append(self._session(action.session).fork(self._new_key()))
            case Rewind():
                dialogue = self._session(action.session)
                turns = min(action.turns, len(dialogue.beginnings))
                if turns:
                    dialogue.rewind(turns)
            case Close():
                index = action.session % len(self._sessions)
                self._engine.release(self._sessions[index].key)
                self._sessions[index] = Dialogue(self._new_key())
            case DropCaches():
                self._engine.clear()

    def _answer(self, asks: Sequence[Ask]) -> None:
        """Send prompts at their moments, and compute until all are over."""
        asked = {ask.session % len(self._sessions): ask for ask in asks}
        waiting = [(ask, self._sessions[index]) for index, ask in asked.items()]
        running: dict[str, _Running] = {}
        step = 0
        while waiting or any(turn.reason is None for turn in running.values()):
            events: list[Event] = []
            for ask, dialogue in [each for each in waiting if each[0].delay <= step]:
                waiting.remove((ask, dialogue))
                events += self._send(ask, dialogue, running)
            for turn_id, turn in running.items():
                after = turn.ask.cancel_after
                if after is not None and turn.reason is None and step >= turn.ask.delay + after:
                    events += self._engine.cancel(turn_id)
            self._take(events, running)
            self._take(self._engine.step(), running)
            step += 1
            assert step < 2000, "a prompt is never answered"
        for turn in running.values():
            self._conclude(turn)

    def _send(self, ask: Ask, dialogue: Dialogue, running: dict[str, _Running]) -> list[Event]:
        pictures = [] if ask.picture is None else [noise_image(ask.picture)]
        dialogue.ask(self._processor, QUESTIONS[ask.question], pictures)
        if len(dialogue.tokens) + ask.max_new_tokens > self._engine.info.max_context:
            dialogue.rewind(1)  # another test's subject
            return []
        self._num_prompts += 1
        turn_id = f"t{self._num_prompts}"
        running[turn_id] = _Running(ask, dialogue)
        retention = Retention(dialogue.key, until=2e9) if ask.retain else None
        sampling = Sampling(ask.max_new_tokens, ignore_eos=ask.ignore_eos)
        turn = Turn(turn_id, tuple(dialogue.tokens), tuple(dialogue.images), sampling, retention)
        return self._engine.add(turn)

    def _take(self, events: Sequence[Event], running: dict[str, _Running]) -> None:
        for event in events:
            turn = running[event.turn_id]
            match event:
                case PixelsNeeded():
                    found = [p for p in turn.dialogue.pixels if p.digest == event.digest]
                    self._engine.put_pixels(found[0])
                case TokenOut():
                    turn.answer.append(event.token)
                case Finished():
                    turn.reason = event.reason
                case Failed():
                    raise AssertionError(event.message)

    def _conclude(self, turn: _Running) -> None:
        """A cancelled prompt leaves no trace; any other answer must be the reference's."""
        dialogue = turn.dialogue
        assert turn.reason is not None
        if turn.reason is FinishReason.CANCELLED:
            dialogue.rewind(1)
            return
        ignore_eos = turn.ask.ignore_eos
        self._judge.check(
            dialogue.tokens, dialogue.pixels, turn.answer, turn.reason, ignore_eos=ignore_eos
        )
        if turn.reason is FinishReason.LENGTH:
            assert len(turn.answer) == turn.ask.max_new_tokens
        dialogue.tokens += turn.answer

    def _session(self, index: int) -> Dialogue:
        return self._sessions[index % len(self._sessions)]

    def _new_key(self) -> str:
        self._num_made += 1
        return f"s{self._num_made - 1}"
