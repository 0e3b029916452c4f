"""What a step's result means for the turns in it: the events to tell, and the counts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vlm_sessions.engine.caches import Caches
from vlm_sessions.engine.sequence import Sequence
from vlm_sessions.engine.turns import Turns
from vlm_sessions.engine.types import (
    Event,
    Finished,
    FinishReason,
    Plan,
    Prefilled,
    Sampled,
    StepResult,
    TokenOut,
)


class Reports:
    """Accounts for steps that were carried out. Not thread-safe.

    Args:
        max_context: tokens of prompt and answer together, at most.
        monotonic: seconds, for durations.
    """

    def __init__(
        self, caches: Caches, turns: Turns, *, max_context: int, monotonic: Callable[[], float]
    ) -> None:
        self.num_steps = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_host_tokens = 0
        """Those of the cached ones that were on the host."""
        self.num_generated_tokens = 0
        self.num_preemptions = 0
        self.load_seconds = 0.0
        """What it has taken to bring KV from the host."""
        self._caches = caches
        self._turns = turns
        self._max_context = max_context
        self._monotonic = monotonic
        self._outbox: list[Event] = []
        """Events of a plan, which leave with its ``apply``."""

    def tell(self, events: Iterable[Event]) -> None:
        """Have events leave with the step that is being planned."""
        self._outbox += events

    def started(self, sequence: Sequence) -> None:
        """Something of this turn is computed in the step that is being planned."""
        if sequence.started_at is None:
            sequence.started_at = self._monotonic()
            self._turns.begin(sequence)

    def apply(self, plan: Plan, result: StepResult) -> list[Event]:
        """Account for a plan that was carried out; returns what happened, in order."""
        events, self._outbox = self._outbox, []
        self.num_steps += bool(plan)
        self.load_seconds += result.load_seconds
        for sequence in self._turns.settle():
            if sequence.is_computed:
                events += self.prefilled(sequence)
        sampled = iter(result.sampled)
        for span in plan.spans:
            found = self._turns.get(span.turn_id)
            assert found is not None, "no turn ends between a plan and its result"
            sequence = found
            self._turns.advance(sequence, len(span.tokens))
            if not sequence.is_computed:
                continue
            if not sequence.prefill_reported:
                events += self.prefilled(sequence)
            if span.draw is not None:
                events += self._take(sequence, next(sampled))
        return events

    def prefilled(self, sequence: Sequence) -> list[Event]:
        """Report a computed prompt, and the end of a turn that wants no more than that."""
        started_at = sequence.started_at
        if started_at is None:
            started_at = self._monotonic()
        sequence.prefill_reported = True
        self.num_prompt_tokens += sequence.num_prompt
        self.num_cached_tokens += sequence.num_reused
        self.num_host_tokens += sequence.num_restored
        events: list[Event] = [
            Prefilled(
                turn_id=sequence.turn_id,
                prompt_tokens=sequence.num_prompt,
                cached_tokens=sequence.num_reused,
                images_encoded=sequence.num_encoded,
                queue_ms=(started_at - sequence.arrived_at) * 1000,
            )
        ]
        if not sequence.wants_token:
            events.append(self._finish(sequence, FinishReason.LENGTH))
        return events

    def _take(self, sequence: Sequence, sampled: Sampled) -> list[Event]:
        """Account for a sampled token."""
        assert sampled.turn_id == sequence.turn_id, "samples come in the order of the spans"
        if sampled.is_eos and not sequence.turn.sampling.ignore_eos:
            return [self._finish(sequence, FinishReason.STOP)]
        sequence.append(sampled.token)
        self.num_generated_tokens += 1
        events: list[Event] = [TokenOut(sequence.turn_id, sampled.token)]
        if not sequence.wants_token or sequence.num_tokens >= self._max_context:
            events.append(self._finish(sequence, FinishReason.LENGTH))
        return events

    def _finish(self, sequence: Sequence, reason: FinishReason) -> Finished:
        tip = self._turns.remove(sequence)
        retention = sequence.turn.retention
        if retention is not None:
            self._caches.retain(retention.key, tip, sequence.turn.images, retention.until)
        return Finished(sequence.turn_id, reason)
