"""From the engine's events to the text of an answer, with its figures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from vlm_sessions.config import Settings
from vlm_sessions.engine.types import Event, Finished, FinishReason, Prefilled, Sampling, TokenOut
from vlm_sessions.errors import InvalidField
from vlm_sessions.processing import Processor
from vlm_sessions.protocol.schema import Answer, Lifetime, SamplingOptions, Timing, Usage
from vlm_sessions.service.stops import StopFilter, num_tokens_within
from vlm_sessions.service.work import FinishedAnswer


def check_options(options: SamplingOptions, settings: Settings) -> None:
    """Refuse what the schema cannot know to be out of range.

    Raises:
        InvalidField: ``max_new_tokens`` is above the limit.
    """
    limit = settings.limit_max_new_tokens
    if options.max_new_tokens is not None and options.max_new_tokens > limit:
        raise InvalidField(
            f"max_new_tokens is {options.max_new_tokens}, the limit is {limit}. Ask for less; "
            "VLM_LIMIT_MAX_NEW_TOKENS raises the limit."
        )


def to_sampling(options: SamplingOptions, settings: Settings, *, room: int) -> Sampling:
    """The engine's parameters for a prompt after which ``room`` tokens fit the context."""
    wanted = options.max_new_tokens or settings.default_max_new_tokens
    return Sampling(
        max_new_tokens=min(wanted, room),
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=secrets.randbits(63) if options.seed is None else options.seed,
        ignore_eos=options.ignore_eos,
    )


class Generation:
    """An answer as it grows. ``text`` is exactly what ``take`` and ``end`` have given so far."""

    def __init__(
        self,
        processor: Processor,
        stops: Sequence[str],
        *,
        num_prompt_tokens: int,
        started: float,
        turn_index: int = 0,
        num_dropped_turns: int = 0,
    ) -> None:
        """``started``: when the service took the request, by ``time.perf_counter``."""
        self._processor = processor
        self._detokenizer = processor.detokenizer()
        self._stops = StopFilter(stops)
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._num_prompt_tokens = num_prompt_tokens
        self._turn_index = turn_index
        self._num_dropped_turns = num_dropped_turns
        self._num_cached_tokens = 0
        self._started = started
        self._submitted = time.perf_counter()
        self._queue_ms: float | None = None
        self._first_token_at: float | None = None
        self._reason: FinishReason | None = None

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def finished(self) -> bool:
        """Whether the engine, or a stop string, has ended the answer."""
        return self._reason is not None

    @property
    def cancelled(self) -> bool:
        return self._reason is FinishReason.CANCELLED

    def take(self, event: Event) -> str:
        """Take in one event; gives the text that became certain, which may be empty."""
        match event:
            case Prefilled():
                self._num_cached_tokens = event.cached_tokens
                waited_ms = (self._submitted - self._started) * 1000
                self._queue_ms = waited_ms + event.queue_ms
            case TokenOut():
                if self._first_token_at is None:
                    self._first_token_at = time.perf_counter()
                self._tokens.append(event.token)
                piece = self._keep(self._stops.push(self._detokenizer.push(event.token)))
                if self._stops.stopped:
                    self._reason = FinishReason.STOP
                return piece
            case Finished():
                self._reason = event.reason
            case _:  # PixelsNeeded and Failed never get past the engine's client
                pass
        return ""

    def end(self) -> str:
        """What was held back, now that no more tokens come."""
        certain = self._stops.push(self._detokenizer.flush())
        if self._stops.stopped:
            self._reason = FinishReason.STOP
        return self._keep(certain + self._stops.flush())

    def for_record(self) -> FinishedAnswer:
        """The answer as later turns are to see it."""
        text = self.text
        tokens = tuple(self._tokens)
        if self._stops.stopped:
            tokens = tokens[: num_tokens_within(tokens, text, self._processor.decode)]
        return FinishedAnswer(text, tokens, (self._reason or FinishReason.CANCELLED).value)

    def for_client(self, lifetime: Lifetime | None, *, cancelled: bool = False) -> Answer:
        """The answer with its figures; ``cancelled``: as far as it got."""
        now = time.perf_counter()
        reason = FinishReason.CANCELLED if cancelled else self._reason or FinishReason.CANCELLED
        first = self._first_token_at
        return Answer(
            text=self.text,
            finish_reason=reason.value,
            usage=Usage(
                prompt_tokens=self._num_prompt_tokens,
                cached_tokens=self._num_cached_tokens,
                completion_tokens=len(self._tokens),
                dropped_turns=self._num_dropped_turns,
            ),
            timing=Timing(
                queue_ms=self._queue_ms or 0.0,
                ttft_ms=None if first is None else (first - self._started) * 1000,
                total_ms=(now - self._started) * 1000,
            ),
            lifetime=lifetime,
            turn_index=self._turn_index,
        )

    def _keep(self, text: str) -> str:
        if text:
            self._text.append(text)
        return text
