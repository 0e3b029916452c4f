"""What is measured of an engine on a GPU; each function is a row of the table, or a few."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from statistics import median

from bench.gpu_driver import Asked, Conversation, Driver
from bench.measure import Quantiles

TTFT_LIMIT, TPOT_LIMIT = 0.2, 0.05
"""Seconds: a turn within both counts for goodput."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    context: int
    """Tokens of a conversation when it is continued."""
    num_words: int = 50
    """Of a prompt."""
    num_repeats: int = 20
    batch: int = 64
    num_decode_steps: int = 64
    num_open: int = 2000
    num_active: int = 200
    mixed_seconds: float = 60.0
    think_seconds: float = 10.0
    """Mean of the time between an answer and the next question; exponentially distributed."""


@dataclass(frozen=True, slots=True)
class LevelTimes:
    level: str
    ttft: Quantiles
    """ms"""


@dataclass(frozen=True, slots=True)
class Mixed:
    """Many open sessions, of which some speak now and then."""

    num_open: int
    num_active: int
    seconds: float
    open_ms: Quantiles
    """From an image to its computed beginning, one session after another."""
    turns_per_second: float
    goodput: float
    """Turns a second with a first token within 200 ms and 50 ms a token after it."""
    tokens_per_second: float
    levels: tuple[LevelTimes, ...]
    num_lost: int
    """Turns that were asked and not answered in full."""


def first_ttft(driver: Driver, scale: Scale, num_prompt: int) -> float:
    """Seconds from a new image and its question to the first token."""

    def once() -> float:
        conversation = driver.conversation()
        asked = driver.ask(conversation, num_prompt - len(conversation.tokens), 1)
        driver.finish([asked])
        return asked.ttft

    return _median_after_warming(once, scale.num_repeats)


def follow_up_ttft(driver: Driver, scale: Scale) -> float:
    """Seconds from a question in a session of some length to its first token."""
    conversation = _held(driver, scale)
    kept = len(conversation.tokens)

    def once() -> float:
        del conversation.tokens[kept:]
        asked = driver.ask(conversation, scale.num_words, 1)
        driver.finish([asked])
        return asked.ttft

    return _median_after_warming(once, scale.num_repeats)


def follow_up_turn(driver: Driver, scale: Scale, batch: int, num_answer: int) -> float:
    """Seconds from asking so many sessions at once to the last token of the last answer."""
    conversations = [_held(driver, scale) for _ in range(batch)]

    def once() -> float:
        started = time.perf_counter()
        driver.finish([driver.ask(c, scale.num_words, num_answer) for c in conversations])
        taken = time.perf_counter() - started
        for conversation in conversations:
            del conversation.tokens[-scale.num_words - num_answer :]
        return taken

    return _median_after_warming(once, 3)


def decode_step(driver: Driver, scale: Scale, batch: int, *, shared: bool = False) -> float:
    """Seconds of a step in which so many sessions get a token each.

    Args:
        shared: all are about one picture and have begun alike; otherwise each has its own.
    """
    picture = driver.conversation().picture
    begun = _held(driver, scale, picture) if shared else None
    num_answer = scale.num_decode_steps + batch + 8
    asked = []
    for _ in range(batch):
        conversation = _fork(begun) if begun else _held(driver, scale)
        asked.append(driver.ask(conversation, 1, num_answer))
    while not all(turn.arrivals for turn in asked):
        driver.step()
    for _ in range(4):
        driver.step()
    started = time.perf_counter()
    for _ in range(scale.num_decode_steps):
        driver.step()
    taken = time.perf_counter() - started
    driver.finish(asked)
    return taken / scale.num_decode_steps


def mixed(driver: Driver, scale: Scale) -> Mixed:
    """Open all sessions, then let some of them talk, at random and on their own time."""
    opened, conversations = [], []
    for _ in range(scale.num_open):
        conversation = driver.conversation()
        started = time.perf_counter()
        driver.finish([driver.ask(conversation, scale.num_words, 0)])
        opened.append((time.perf_counter() - started) * 1e3)
        conversations.append(conversation)
    active = driver.random.sample(conversations, scale.num_active)
    begin = time.perf_counter()
    asked = _talk(driver, scale, active, until=begin + scale.mixed_seconds)
    seconds = time.perf_counter() - begin
    by_level = defaultdict(list)
    for turn in asked:
        by_level[turn.level].append(turn.ttft * 1e3)
    good = sum(turn.ttft <= TTFT_LIMIT and turn.tpot <= TPOT_LIMIT for turn in asked)
    return Mixed(
        num_open=scale.num_open,
        num_active=scale.num_active,
        seconds=seconds,
        open_ms=Quantiles.of(opened),
        turns_per_second=len(asked) / seconds,
        goodput=good / seconds,
        tokens_per_second=sum(len(turn.arrivals) for turn in asked) / seconds,
        levels=tuple(
            LevelTimes(level, Quantiles.of(times)) for level, times in sorted(by_level.items())
        ),
        num_lost=sum(len(turn.arrivals) != turn.num_answer for turn in asked),
    )


def _talk(
    driver: Driver, scale: Scale, active: Sequence[Conversation], *, until: float
) -> list[Asked]:
    """Turns of 20 to 50 tokens and answers of 32 to 128, and thinking between them."""
    random = driver.random

    def think() -> float:
        return time.perf_counter() + random.expovariate(1 / scale.think_seconds)

    due = [(think(), number) for number in range(len(active))]
    heapify(due)
    asked: list[Asked] = []
    speaking: dict[int, Asked] = {}
    while True:
        now = time.perf_counter()
        while due and due[0][0] <= now < until:
            _, number = heappop(due)
            turn = driver.ask(active[number], random.randint(20, 50), random.randint(32, 128))
            speaking[number] = turn
            asked.append(turn)
        if driver.num_running:
            driver.step()
        elif now >= until or not due:
            return asked
        else:
            time.sleep(max(0.0, min(due[0][0], until) - now))
        for number in [n for n, turn in speaking.items() if turn.done]:
            del speaking[number]
            heappush(due, (think(), number))


def _held(driver: Driver, scale: Scale, picture: int | None = None) -> Conversation:
    """A session of ``scale.context`` tokens."""
    conversation = driver.conversation(picture)
    num_words = scale.context - len(conversation.tokens)
    driver.finish([driver.ask(conversation, num_words, 0)])
    return conversation


def _fork(conversation: Conversation) -> Conversation:
    return Conversation(conversation.picture, list(conversation.tokens), conversation.image)


def _median_after_warming(once: Callable[[], float], repeats: int) -> float:
    once()
    return median(once() for _ in range(repeats))
