"""Which tokens of which turns are computed next. Plain accounting: no tensors, no threads, no I/O.

    submitted ─▶ WAITING ──blocks──▶ RUNNING ─▶ finished
                 │     ▲               │
          pixels │     │ pixels        │ preempted: its blocks go to an older turn,
          needed ▼     │ arrive        │ its tokens stay and are computed again
                 PARKED                ▼
                                    WAITING          … and cancelled from anywhere

In every step each decoding turn gets its one token first; what is left of ``max_batch_tokens`` goes
to prompts, in chunks, the oldest turn first. A turn is admitted with blocks for all its tokens so
far; decoding takes more as it goes, from the youngest turn if there is no other way. The oldest
turn is never preempted for room, so that something always finishes.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from operator import attrgetter

from vlm_sessions.engine.blocks import BlockPool, Match
from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.images import Encodes, ImageLedger
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.sequence import Sequence, SequenceState, check_turn
from vlm_sessions.engine.types import (
    BlockCopy,
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Plan,
    Prefilled,
    Sampled,
    StepResult,
    TokenOut,
    TokenSpan,
    Turn,
)
from vlm_sessions.errors import ContextOverflow, Internal

_by_order = attrgetter("order")


class _Step:
    """A plan in the making, and what is left of the step's limits."""

    def __init__(self, limits: EngineLimits) -> None:
        self.spans: list[TokenSpan] = []
        self.copies: list[BlockCopy] = []
        self.encodes = Encodes(limits.max_images_per_step)
        self.tokens_left = limits.max_batch_tokens

    def add(self, sequence: Sequence, end: int) -> None:
        self.spans.append(sequence.span(end))
        self.tokens_left -= end - sequence.num_computed


class Scheduler:
    """Continuous batching over one runner's block pool. Not thread-safe.

    ``plan`` and ``apply`` alternate; the other methods may be called between an ``apply`` and the
    next ``plan``, never between a ``plan`` and its ``apply``.

    Args:
        monotonic: seconds, for durations.
        wall: seconds since the epoch, for retentions.
    """

    def __init__(
        self,
        info: EngineInfo,
        limits: EngineLimits,
        feature_bytes_per_token: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._pool = BlockPool(info.num_blocks, info.block_size, wall)
        self._images = ImageLedger(limits, feature_bytes_per_token)
        self._max_context = min(info.max_context, info.num_blocks * info.block_size)
        self._sequences: dict[str, Sequence] = {}
        """turn_id -> every turn that is not over"""
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        """Both in order of submission."""
        self._outbox: list[Event] = []
        """Events of a plan, which leave with its ``apply``."""
        self._num_submitted = 0
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_generated_tokens = 0
        self._num_preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do something. Parked turns are woken by ``put_pixels``."""
        return bool(
            self._running
            or (self._waiting and self._has_free_slot)
            or self._images.features.has_dropped
        )

    @property
    def _num_parked(self) -> int:
        return len(self._sequences) - len(self._waiting) - len(self._running)

    @property
    def _has_free_slot(self) -> bool:
        """Whether one more turn may leave the line. Parked ones count too: each has pixels kept
        for it, and all that wait in line would fill the host's memory with theirs."""
        return len(self._running) + self._num_parked < self._limits.num_slots

    # --- between steps --------------------------------------------------------------------------

    def add(self, turn: Turn) -> list[Event]:
        """Put a turn in line. Says at once what it lacks, or that it can never be computed."""
        try:
            check_turn(turn, self._sequences)
        except ValueError as exc:
            return [Failed(turn.turn_id, Internal.code, f"The engine refused the turn: {exc}.")]
        num_tokens = len(turn.tokens) + min(1, turn.sampling.max_new_tokens)
        if num_tokens > self._max_context:
            return [Failed(turn.turn_id, ContextOverflow.code, self._too_long(num_tokens))]
        sequence = Sequence(
            turn,
            order=self._num_submitted,
            block_size=self._pool.block_size,
            arrived_at=self._monotonic(),
        )
        self._num_submitted += 1
        self._sequences[turn.turn_id] = sequence
        self._waiting.append(sequence)
        if len(self._sequences) > self._limits.num_slots:
            return []  # its turn comes later, and so does what it lacks
        return self._park_if_missing(sequence, self._match(sequence))

    def cancel(self, turn_id: str) -> list[Event]:
        """End a turn in whatever state it is. Unknown ids are ignored."""
        sequence = self._sequences.get(turn_id)
        if sequence is None:
            return []
        self._remove(sequence)
        return [Finished(turn_id, FinishReason.CANCELLED)]

    def put_pixels(self, image: PixelImage) -> None:
        """Take in an image that was asked for. One that nobody needs stays while there is room."""
        for sequence in self._images.put(image):
            sequence.state = SequenceState.WAITING
            insort(self._waiting, sequence, key=_by_order)

    def release(self, key: str) -> None:
        self._pool.release(key)

    def locate(self, tokens: SequenceOf[int], images: SequenceOf[ImageSpan]) -> CacheLocation:
        """Where a prefix is cached. Changes nothing, not even what was used last."""
        chain = TokenChain(tokens, images, self._pool.block_size)
        digests = tuple(dict.fromkeys(image.digest for image in images))
        return CacheLocation(
            kv_tokens=self._pool.match(chain, len(tokens)).num_tokens,
            features=tuple(d for d in digests if d in self._images.features),
            pixels=tuple(d for d in digests if d in self._images.pixels),
        )

    def clear(self) -> None:
        """Drop every cache that no turn uses."""
        self._pool.clear()
        self._images.clear()

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._sequences) - len(self._running),
            blocks_total=self._pool.num_blocks,
            blocks_in_use=self._pool.num_in_use,
            blocks_cached=self._pool.num_cached,
            blocks_retained=self._pool.count_retained(),
            features_cached=len(self._images.features),
            feature_bytes=self._images.features.num_bytes,
            pixels_cached=len(self._images.pixels),
            pixel_bytes=self._images.pixels.num_bytes,
            steps_total=self._num_steps,
            prompt_tokens_total=self._num_prompt_tokens,
            cached_tokens_total=self._num_cached_tokens,
            generated_tokens_total=self._num_generated_tokens,
            images_encoded_total=self._images.num_encoded,
            feature_hits_total=self._images.num_hits,
            blocks_evicted_total=self._pool.num_evicted,
            blocks_copied_total=self._pool.num_copied,
            preemptions_total=self._num_preemptions,
        )

    # --- plan -----------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Decide what the next step computes. Empty when nothing can be."""
        self._pool.expire()
        step = _Step(self._limits)
        self._plan_decodes(step)
        self._plan_prefills(step)
        self._admit(step)
        return Plan(
            spans=tuple(step.spans),
            copies=tuple(step.copies),
            encode=tuple(step.encodes.images),
            drop=self._images.features.take_dropped(),
        )

    def _plan_decodes(self, step: _Step) -> None:
        for sequence in tuple(self._running):
            if sequence.is_decoding and self._grow(sequence):
                step.add(sequence, sequence.num_tokens)

    def _plan_prefills(self, step: _Step) -> None:
        for sequence in tuple(self._running):
            if step.tokens_left and not sequence.is_decoding:
                self._plan_chunk(sequence, step)

    def _admit(self, step: _Step) -> None:
        while self._waiting and step.tokens_left and self._has_free_slot:
            sequence = self._waiting[0]
            match = self._match(sequence)
            asked = self._park_if_missing(sequence, match)
            if asked:
                self._outbox += asked
                continue
            reservation = self._pool.try_reserve(match, sequence.num_blocks_needed)
            if reservation is None:
                break
            del self._waiting[0]
            if reservation.copy is not None:
                step.copies.append(reservation.copy)
            sequence.start(reservation.blocks, match.num_tokens)
            insort(self._running, sequence, key=_by_order)
            if sequence.is_computed:
                self._outbox += self._prefilled(sequence)
            else:
                self._plan_chunk(sequence, step)

    def _plan_chunk(self, sequence: Sequence, step: _Step) -> None:
        end = min(sequence.num_computed + step.tokens_left, sequence.num_tokens)
        end = self._images.secure(sequence, end, step.encodes)
        if end > sequence.num_computed:
            if sequence.started_at is None:
                sequence.started_at = self._monotonic()
            step.add(sequence, end)
        elif self._images.lacks(sequence):
            self._preempt(sequence)

    def _grow(self, sequence: Sequence) -> bool:
        """Make room for the token to be decoded; ``False``: the turn itself had to give way."""
        while len(sequence.blocks) < sequence.num_blocks_needed:
            if sequence.state is not SequenceState.RUNNING:
                return False
            reservation = self._pool.try_reserve(Match(), 1)
            if reservation is not None:
                sequence.blocks += reservation.blocks
            else:
                self._num_preemptions += 1
                self._preempt(self._running[-1])
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._images.release_held(sequence)
        self._give_back(sequence)
        sequence.reset()
        insort(self._waiting, sequence, key=_by_order)

    def _match(self, sequence: Sequence) -> Match:
        return self._pool.match(sequence.chain, sequence.num_reusable)

    def _park_if_missing(self, sequence: Sequence, match: Match) -> list[Event]:
        """Ask for images that a waiting turn lacks, and take it out of the line until they come."""
        missing = self._images.await_missing(sequence, match.num_tokens)
        if missing:
            self._waiting.remove(sequence)
            sequence.state = SequenceState.PARKED
        return [PixelsNeeded(sequence.turn_id, digest) for digest in missing]

    # --- apply ----------------------------------------------------------------------------------

    def apply(self, plan: Plan, result: StepResult) -> list[Event]:
        """Account for a plan that was carried out; returns what happened, in order."""
        events, self._outbox = self._outbox, []
        self._num_steps += bool(plan)
        sampled = iter(result.sampled)
        for span in plan.spans:
            sequence = self._sequences[span.turn_id]
            self._advance(sequence, len(span.tokens))
            if not sequence.is_computed:
                continue
            if not sequence.prefill_reported:
                events += self._prefilled(sequence)
            if span.draw is not None:
                events += self._take(sequence, next(sampled))
        return events

    def _advance(self, sequence: Sequence, num_tokens: int) -> None:
        """The next ``num_tokens`` of a turn are in KV: name full blocks, let go of features."""
        sequence.num_computed += num_tokens
        self._images.release_computed(sequence)
        for index in range(sequence.num_committed, sequence.num_computed // self._pool.block_size):
            self._commit(sequence, index, sequence.chain.hashes[index])
            sequence.num_committed += 1

    def _commit(self, sequence: Sequence, index: int, block_hash: bytes | None) -> None:
        blocks = sequence.blocks
        parent = blocks[index - 1] if index else None
        content = sequence.chain.content(index, sequence.num_computed)
        blocks[index] = self._pool.commit(blocks[index], parent, content, block_hash)

    def _prefilled(self, sequence: Sequence) -> list[Event]:
        """Report a computed prompt, and the end of a turn that wants no more than that."""
        started_at = sequence.started_at
        if started_at is None:
            started_at = self._monotonic()
        sequence.prefill_reported = True
        self._num_prompt_tokens += sequence.num_prompt
        self._num_cached_tokens += sequence.num_reused
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
        self._num_generated_tokens += 1
        events: list[Event] = [TokenOut(sequence.turn_id, sampled.token)]
        if not sequence.wants_token or sequence.num_tokens >= self._max_context:
            events.append(self._finish(sequence, FinishReason.LENGTH))
        return events

    def _finish(self, sequence: Sequence, reason: FinishReason) -> Finished:
        tip = self._remove(sequence)
        retention = sequence.turn.retention
        if retention is not None:
            self._pool.retain(retention.key, tip, retention.until)
        return Finished(sequence.turn_id, reason)

    def _remove(self, sequence: Sequence) -> int | None:
        """Take a turn out of whatever holds it. What it computed stays cached; returns the last
        block of that."""
        tip = None
        del self._sequences[sequence.turn_id]
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
            tip = self._give_back(sequence)
        elif sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
        self._images.forget(sequence)
        return tip

    def _give_back(self, sequence: Sequence) -> int | None:
        """Free a turn's blocks, each of them named for what is computed in it; returns the last
        that is named."""
        num_named = sequence.num_committed
        if sequence.num_computed > num_named * self._pool.block_size:
            self._commit(sequence, num_named, None)
            num_named += 1
        self._pool.free(sequence.blocks)
        return sequence.blocks[num_named - 1] if num_named else None

    def _too_long(self, num_tokens: int) -> str:
        return (
            f"The conversation needs at least {num_tokens} tokens and the model's context holds "
            f"{self._max_context}. Shorten the prompt, send fewer or smaller images, or open a new "
            "session."
        )

    # --- invariants -----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert every invariant of the engine's accounting. For tests and idle times."""
        self._pool.check_integrity()
        sequences = tuple(self._sequences.values())
        self._images.check_integrity(sequences)
        for line in (self._waiting, self._running):
            assert line == sorted(line, key=_by_order)
        assert len(self._running) + self._num_parked <= self._limits.num_slots
        num_users = [0] * self._pool.num_blocks
        for sequence in sequences:
            state = sequence.state
            assert (sequence in self._running) == (state is SequenceState.RUNNING)
            assert (sequence in self._waiting) == (state is SequenceState.WAITING)
            assert bool(sequence.awaited) == (state is SequenceState.PARKED)
            assert bool(sequence.blocks) == (state is SequenceState.RUNNING)
            assert sequence.num_computed <= len(sequence.blocks) * self._pool.block_size
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            for block in sequence.blocks:
                num_users[block] += 1
        assert num_users == [self._pool.num_users(b) for b in range(self._pool.num_blocks)]
