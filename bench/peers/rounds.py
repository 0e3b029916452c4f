"""What is asked of every peer in a round, and what is checked of its answers.

All peers get the same pictures and questions in a round, one peer after the other, so that what
else happens on the machine meets all alike. Every round has pictures and questions of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.peers.catalog import PeerKind
from bench.peers.process import PeerFailed, PeerProcess
from bench.peers.protocol import Answer, Question
from bench.workload import Workload
from vlm_sessions.processing import ImageRef, Processor

WHOLE_BLOCK = 32
"""Tokens that a peer may have to compute again since it finds whole blocks only."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked in a round. All counts but the first are of tokens."""

    num_follow_ups: int
    num_question: int
    """Of a question's words; the turn's frame adds three."""
    num_answer: int
    num_long_answer: int
    """Where the time of a token is taken."""
    num_at_once: int
    """Conversations."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure twice: as the clock shows it, and with the process's own time only."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """One peer in one round. Times in ms; rates in tokens a second."""

    first_ttft: Measured
    """From a JPEG and the first question to the first token."""
    follow_up_ttft: Measured
    tpot: Measured
    """(last token − first) / (tokens − 1) of one conversation alone."""
    rate: Measured | None
    """All tokens of the answers to a question in each of several conversations, over the time
    from the questions to the last token."""
    decode_rate: Measured | None
    """Of the same, from when all had their first token."""
    num_prompt: int
    """Tokens of the last follow-up's prompt, what was cached among them."""
    num_computed: int | None
    """Those of a follow-up that were not cached, median."""
    first_answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """The pictures and questions of one round, as tokens."""

    picture: bytes
    first: tuple[int, ...]
    follow_ups: tuple[tuple[int, ...], ...]
    long_question: tuple[int, ...]
    group_questions: tuple[tuple[int, ...], ...]


class Scripts:
    """Makes what is asked, the same for every peer."""

    def __init__(self, processor: Processor, effort: Effort, num_image_tokens: int) -> None:
        self._processor = processor
        self._effort = effort
        self._num_image_tokens = num_image_tokens

    def round(self, workload: Workload) -> Script:
        effort = self._effort
        picture = workload.picture()
        return Script(
            picture,
            self.first(workload, picture),
            tuple(self._turn(workload) for _ in range(effort.num_follow_ups)),
            self._turn(workload),
            tuple(self._turn(workload) for _ in range(effort.num_at_once)),
        )

    def first(self, workload: Workload, picture: bytes) -> tuple[int, ...]:
        image = ImageRef(hashlib.sha256(picture).hexdigest(), self._num_image_tokens)
        text = workload.question(self._effort.num_question)
        return self._processor.encode_turn(
            first=True, system=None, text=text, images=[image]
        ).tokens

    def _turn(self, workload: Workload) -> tuple[int, ...]:
        text = workload.question(self._effort.num_question)
        return self._processor.encode_turn(first=False, system=None, text=text, images=[]).tokens


class Contestant:
    """A peer that holds its conversations: those at once all along, one other in each round."""

    def __init__(
        self, kind: PeerKind, process: PeerProcess, effort: Effort, num_image_tokens: int
    ) -> None:
        self.kind = kind
        self._process = process
        self._effort = effort
        self._num_image_tokens = num_image_tokens
        self._lengths: dict[str, int] = {}
        self._group: tuple[str, ...] = ()

    def open_group(self, pictures: Sequence[bytes], questions: Sequence[tuple[int, ...]]) -> None:
        """Begin the conversations that are asked at once, each about a picture of its own."""
        if not self.kind.at_once:
            return
        self._group = tuple(f"group-{number}" for number in range(len(pictures)))
        for name, picture in zip(self._group, pictures, strict=True):
            self._open(name, picture)
        self._ask(self._group, questions, self._effort.num_answer)

    def round(self, script: Script) -> RoundTimes:
        effort = self._effort
        self._open("one", script.picture)
        (first,) = self._ask(["one"], [script.first], effort.num_answer)
        follow_ups = [
            self._ask(["one"], [question], effort.num_answer)[0] for question in script.follow_ups
        ]
        (long,) = self._ask(["one"], [script.long_question], effort.num_long_answer)
        self._process.forget("one")
        group = (
            self._ask(self._group, script.group_questions, effort.num_long_answer)
            if self._group
            else None
        )
        self._check_caches(first, [*follow_ups, *(group or ())])
        return RoundTimes(
            first_ttft=Measured(first.wall[0], first.cpu[0]),
            follow_up_ttft=Measured(
                median(each.wall[0] for each in follow_ups),
                median(each.cpu[0] for each in follow_ups),
            ),
            tpot=Measured(_tpot(long.wall), _tpot(long.cpu)),
            rate=None if group is None else _rate(group),
            decode_rate=None if group is None else _decode_rate(group),
            num_prompt=long.num_prompt,
            num_computed=_num_computed(follow_ups),
            first_answer=first.tokens,
        )

    def _open(self, name: str, picture: bytes) -> None:
        self._process.open(name, picture)
        self._lengths[name] = 0

    def _ask(
        self, names: Sequence[str], questions: Sequence[tuple[int, ...]], num_tokens: int
    ) -> tuple[Answer, ...]:
        asked = [Question(name, tokens) for name, tokens in zip(names, questions, strict=True)]
        answers = self._process.ask(asked, num_tokens)
        for question, answer in zip(asked, answers, strict=True):
            self._check(question, answer, num_tokens)
        return answers

    def _check(self, question: Question, answer: Answer, num_tokens: int) -> None:
        """That it was asked and answered what all are asked and answer."""
        expected = self._lengths[question.conversation] + len(question.tokens)
        if answer.num_prompt != expected:
            raise PeerFailed(f"Its prompt had {answer.num_prompt} tokens instead of {expected}.")
        if not num_tokens == len(answer.tokens) == len(answer.wall) == len(answer.cpu):
            raise PeerFailed(f"It answered {len(answer.tokens)} tokens instead of {num_tokens}.")
        self._lengths[question.conversation] = expected + num_tokens

    def _check_caches(self, first: Answer, follow_ups: Sequence[Answer]) -> None:
        """That nobody skipped the picture that is new, or computed again one that is kept."""
        if first.num_cached is not None and first.num_cached >= self._num_image_tokens:
            raise PeerFailed(f"It had {first.num_cached} tokens of a new picture's prompt cached.")
        for each in follow_ups:
            cached = each.num_cached
            if not self.kind.keeps_kv or cached is None:
                continue
            if cached + WHOLE_BLOCK < self._num_image_tokens:
                raise PeerFailed(f"It had only {cached} tokens of a follow-up cached.")


def _tpot(times: Sequence[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)


def _rate(answers: Sequence[Answer]) -> Measured:
    return Measured(
        _tokens_per_second([each.wall for each in answers], since=0.0),
        _tokens_per_second([each.cpu for each in answers], since=0.0),
    )


def _decode_rate(answers: Sequence[Answer]) -> Measured:
    return Measured(
        *(
            _tokens_per_second(times, since=max(each[0] for each in times))
            for times in ([a.wall for a in answers], [a.cpu for a in answers])
        )
    )


def _tokens_per_second(times: Sequence[Sequence[float]], since: float) -> float:
    """Of the tokens that came after ``since``. All in ms."""
    num_tokens = sum(time > since for each in times for time in each)
    return num_tokens / (max(each[-1] for each in times) - since) * 1e3


def _num_computed(answers: Sequence[Answer]) -> int | None:
    known = [each.num_prompt - each.num_cached for each in answers if each.num_cached is not None]
    return int(median(known)) if known else None
