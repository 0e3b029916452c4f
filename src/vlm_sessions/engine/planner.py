"""Which tokens of which turns are computed next.

In every step each decoding turn gets its one token first; what ``pacing.py`` leaves of
``max_batch_tokens`` goes to prompts, in chunks, in the order of ``rounds.py``. A turn is admitted
with blocks for all its tokens so far; decoding takes more as it goes, from another turn if there is
no other way. The first turn is never preempted for room, so that something always finishes.
"""

from __future__ import annotations

from vlm_sessions.engine.caches import Caches
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.matches import Match
from vlm_sessions.engine.pacing import Pacer
from vlm_sessions.engine.reports import Reports
from vlm_sessions.engine.sequence import Sequence, SequenceState
from vlm_sessions.engine.turns import Turns
from vlm_sessions.engine.types import BlockCopy, Plan, TokenSpan


class _Step:
    """A plan in the making, and what is left of the step's limits."""

    def __init__(self, limits: EngineLimits) -> None:
        self.spans: list[TokenSpan] = []
        self.copies: list[BlockCopy] = []
        self.tokens_left = limits.max_batch_tokens
        self.loads_left = limits.max_loads_per_step

    def add(self, sequence: Sequence, end: int) -> None:
        self.spans.append(sequence.span(end))
        self.tokens_left -= end - sequence.num_computed

    def limit_prompts(self, num_tokens: int) -> None:
        """From now on only prompts are added, with at most so many tokens in all."""
        self.tokens_left = min(self.tokens_left, num_tokens)


class Planner:
    """Continuous batching. Not thread-safe."""

    def __init__(
        self, caches: Caches, turns: Turns, reports: Reports, limits: EngineLimits, pacer: Pacer
    ) -> None:
        self._caches = caches
        self._turns = turns
        self._reports = reports
        self._limits = limits
        self._pacer = pacer

    def plan(self) -> Plan:
        """Decide what the next step computes. Empty when nothing can be."""
        self._caches.expire()
        step = _Step(self._limits)
        encoding = self._caches.images.encoding
        self._plan_decodes(step)
        self._plan_restores(step)
        if self._turns.has_prompts:
            step.limit_prompts(
                self._pacer.max_prompt_tokens(len(step.spans), beside_encoding=encoding.is_running)
            )
            self._plan_prefills(step)
            self._admit(step)
        encoding.begin_parked()
        features = self._caches.images.features.take_moves()
        store, load = self._caches.pool.moves.take()
        return Plan(
            spans=tuple(step.spans),
            store=store,
            copies=tuple(step.copies),
            load=load,
            encode=encoding.take_begun(),
            offload=features.offload,
            drop=features.drop,
            forget=features.forget,
            restore=features.restore,
            wait=encoding.is_running and not (step.spans or step.copies or load),
        )

    def _plan_decodes(self, step: _Step) -> None:
        for sequence in tuple(self._turns.running):
            if sequence.is_decoding and not sequence.is_restoring and self._grow(sequence):
                step.add(sequence, sequence.num_tokens)

    def _plan_restores(self, step: _Step) -> None:
        for sequence in self._turns.running:
            self._restore(sequence, step)

    def _restore(self, sequence: Sequence, step: _Step) -> None:
        """Bring KV back from the host. What comes in a step is there from the next one on, so that
        others run meanwhile."""
        while (sequence.num_stored or sequence.wants_part) and step.loads_left:
            step.loads_left -= 1
            copy = self._turns.restore(sequence)
            if copy is not None:
                step.copies.append(copy)

    def _plan_prefills(self, step: _Step) -> None:
        for sequence in tuple(self._turns.running):
            if step.tokens_left and not sequence.is_decoding and not sequence.is_restoring:
                self._plan_chunk(sequence, step)

    def _admit(self, step: _Step) -> None:
        while self._turns.waiting and step.tokens_left and self._turns.has_free_slot:
            sequence = self._turns.waiting[0]
            match = self._turns.match(sequence)
            self._reports.tell(self._turns.park_if_lacking(sequence, match))
            if sequence.state is SequenceState.PARKED:
                continue
            reservation = self._caches.pool.try_reserve(match, sequence.num_blocks_needed)
            if reservation is None:
                break
            if reservation.copy is not None:
                step.copies.append(reservation.copy)
            self._turns.start(sequence, match, reservation)
            if sequence.is_restoring:
                self._restore(sequence, step)
            elif sequence.is_computed:
                self._reports.tell(self._reports.prefilled(sequence))
            else:
                self._plan_chunk(sequence, step)

    def _plan_chunk(self, sequence: Sequence, step: _Step) -> None:
        end = min(sequence.num_computed + step.tokens_left, sequence.num_tokens)
        end = self._caches.images.secure(sequence, end)
        if end > sequence.num_computed:
            self._reports.started(sequence)
            step.add(sequence, end)
        elif self._caches.images.lacks(sequence):
            self._turns.preempt(sequence)

    def _grow(self, sequence: Sequence) -> bool:
        """Make room for the token to be decoded; ``False``: the turn itself had to give way."""
        while len(sequence.blocks) < sequence.num_blocks_needed:
            if sequence.state is not SequenceState.RUNNING:
                return False
            reservation = self._caches.pool.try_reserve(Match(), 1, after=sequence.blocks[-1])
            if reservation is not None:
                sequence.blocks += reservation.blocks
            else:
                self._reports.num_preemptions += 1
                self._turns.preempt(self._turns.last_running())
        self._reserve_ahead(sequence)
        return True

    def _reserve_ahead(self, sequence: Sequence) -> None:
        """The block that the token to be drawn will need, if nobody loses one by it: then a runner
        knows all of the next step before that token."""
        is_full = sequence.num_tokens == len(sequence.blocks) * self._caches.pool.block_size
        is_last = sequence.num_output + 1 >= sequence.turn.sampling.max_new_tokens
        if is_full and not is_last and self._caches.pool.num_blank:
            reservation = self._caches.pool.try_reserve(Match(), 1, after=sequence.blocks[-1])
            assert reservation is not None
            sequence.blocks += reservation.blocks
