"""Running prompts: one task each, from the line to the record.

    client ◀── events ── channel ◀── task: line → prepare → engine → (all taken?) → record

The task owns everything that must be undone, so a client may leave at any moment: ``aclose`` on the
events ends the task and waits until the session is free again. The answer is recorded only after
the client has taken its last delta and asks for more; from the beginning of the recording on, the
turn can no longer be cancelled.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from vlm_sessions.config import Settings
from vlm_sessions.engine.interface import AsyncEngine, PixelSource
from vlm_sessions.engine.types import Event, Turn
from vlm_sessions.errors import DeadlineExceeded, Draining, Internal, VlmError
from vlm_sessions.logs import get_logger
from vlm_sessions.processing import Processor
from vlm_sessions.protocol.schema import Answer, AnswerEvent, SamplingOptions, TextDelta
from vlm_sessions.service.admission import Admission
from vlm_sessions.service.generation import Generation, to_sampling
from vlm_sessions.service.images import ImageDesk
from vlm_sessions.service.overload import Backlog, Wait
from vlm_sessions.service.quota import Quota
from vlm_sessions.service.running import Ending, RunningPrompt, place_in_line
from vlm_sessions.service.work import PreparedTurn, Work, salt_of

ENGINE_WAIT_SECONDS = 15.0
"""For an engine that is being replaced; one that takes longer is reported to the client."""

_log = get_logger("turns")


class TurnRunner:
    """All running prompts of a service. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        processor: Processor,
        images: ImageDesk,
        *,
        quota: Quota,
        backlog: Backlog,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._processor = processor
        self._images = images
        self._backlog = backlog
        self._admission = Admission(
            max_waiting_per_session=settings.max_queued_per_session,
            max_prompts=settings.max_queued,
        )
        self._quota = quota
        self._running: dict[RunningPrompt, None] = {}
        """In order of arrival."""

    @property
    def num_prompts(self) -> int:
        """Running or waiting."""
        return self._admission.num_prompts

    def num_in_line(self, session_id: str) -> int:
        """Prompts of this session, running or waiting."""
        return self._admission.num_in_line(session_id)

    async def events(
        self, work: Work, options: SamplingOptions, *, request_id: str, stream: bool
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Run a prompt; see ``AnswerStream``. Nothing happens before the first event is asked for.

        Raises:
            QueueFull, DeadlineExceeded, EngineUnavailable, EngineLost, Draining, Internal; what
            the work raises when it is prepared or recorded.
        """
        settings = self._settings
        prompt = RunningPrompt(
            work,
            options,
            request_id=request_id,
            limit_seconds=(
                settings.stream_timeout_seconds if stream else settings.prompt_timeout_seconds
            ),
        )
        prompt.task = asyncio.create_task(self._run(prompt), name=f"prompt-{request_id}")
        prompt.task.add_done_callback(lambda task: self._settle(prompt, task))
        self._running[prompt] = None
        try:
            while True:
                event = await prompt.channel.get()
                if isinstance(event, VlmError):
                    raise event
                yield event
                prompt.channel.task_done()  # the client came back for more
                if isinstance(event, Answer):
                    return
        finally:
            prompt.end(Ending.ABANDONED)
            try:
                await prompt.over()
            finally:
                del self._running[prompt]

    def cancel_session(self, session_id: str) -> bool:
        """End the session's running prompt, if there is one; those that wait go on."""
        ended = [
            prompt.end(Ending.CANCELLED)
            for prompt in self._running
            if prompt.at_work and prompt.work.session_id == session_id
        ]
        return any(ended)

    def cancel_request(self, request_id: str) -> bool:
        """End the prompt of this request, running or waiting."""
        ended = [
            prompt.end(Ending.CANCELLED)
            for prompt in self._running
            if prompt.request_id == request_id
        ]
        return any(ended)

    async def session_idle(self, session_id: str) -> None:
        """Wait until the session's prompt that was just cancelled has let go of the engine."""
        for prompt in tuple(self._running):
            if prompt.at_work and prompt.work.session_id == session_id:
                await prompt.over()

    @asynccontextmanager
    async def between_prompts(self, session_id: str) -> AsyncIterator[None]:
        """Inside, no prompt of the session runs. Those that were ended already are waited for.

        Raises:
            SessionBusy: one is running or waiting.
        """
        for prompt in tuple(self._running):
            if prompt.ending is not None and prompt.work.session_id == session_id:
                await prompt.over()
        async with self._admission.claim(session_id):
            yield

    async def close(self) -> None:
        """End all prompts; their clients are told that the service shuts down."""
        for prompt in tuple(self._running):
            prompt.end(Ending.SHUTDOWN)
        for prompt in tuple(self._running):
            await prompt.over()

    def check_integrity(self) -> None:
        """Assert that no two prompts of one session are at work, and that none is forgotten."""
        self._admission.check_integrity()
        at_work = [prompt for prompt in self._running if prompt.at_work]
        sessions = [p.work.session_id for p in at_work if p.work.session_id is not None]
        assert len(sessions) == len(set(sessions)), "one prompt of a session at a time"
        assert len(at_work) <= self._admission.num_prompts
        for prompt in self._running:
            assert (
                prompt.at_work
                or not prompt.recording
                or (prompt.task is not None and prompt.task.done())
            )

    # --- the task -------------------------------------------------------------------------------

    async def _run(self, prompt: RunningPrompt) -> None:
        """The boundary: whatever happens, the client's channel ends with an answer or an error."""
        outcome: AnswerEvent | VlmError
        try:
            outcome = await self._answer(prompt)
        except asyncio.CancelledError:
            if prompt.ending is not Ending.CANCELLED:
                outcome = _shutting_down()
            else:
                outcome = await self._cancelled_answer(prompt)
        except VlmError as error:
            outcome = error
        except Exception as exc:  # noqa: BLE001  # a bug of ours must not leave a client waiting
            outcome = _bug(prompt, exc)
        prompt.channel.put_nowait(outcome)

    async def _answer(self, prompt: RunningPrompt) -> Answer:
        deadline = asyncio.timeout(prompt.limit_seconds)
        try:
            async with deadline, place_in_line(prompt, self._admission, self._quota):
                generation = await self._generate_and_hand_over(prompt)
                if generation.cancelled:
                    return generation.for_client(prompt.work.lifetime)
                # From here on it counts: neither deadline nor cancelling may tear it in two.
                prompt.recording = True
                deadline.reschedule(None)
                await prompt.work.record(generation.for_record())
                return generation.for_client(prompt.work.lifetime)
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(
                f"The prompt was not finished within {prompt.limit_seconds:g} s and left no "
                "trace. Ask for fewer tokens, stream the answer, or retry when there is less load."
            ) from exc

    async def _generate_and_hand_over(self, prompt: RunningPrompt) -> Generation:
        try:
            generation = await self._generate(prompt)
            await prompt.channel.join()
        except BaseException:
            # A use that came to nothing was a use: a long one must not leave an expired session.
            if prompt.work.lifetime is not None:
                with suppress(VlmError):  # the session may be what was ended
                    await prompt.work.announce()
            raise
        return generation

    async def _generate(self, prompt: RunningPrompt) -> Generation:
        """Have the engine compute the turn; deltas go to the client as they come."""
        prepared = await prompt.work.prepare()
        await self._engine.wait_ready(ENGINE_WAIT_SECONDS)
        generation = prompt.generation = Generation(
            self._processor,
            prompt.options.stop,
            num_prompt_tokens=len(prepared.tokens),
            started=prompt.started,
            turn_index=prepared.num_earlier_answers,
            num_dropped_turns=prepared.num_dropped_turns,
        )
        turn = self._turn(prompt, prepared)
        # The disk works while the device does; the first event waits for both.
        announcing = asyncio.ensure_future(prompt.work.announce())
        try:
            pixels = self._images.pixel_source(prepared.contents, prompt.work.client)
            async with self._submitted(turn, pixels) as (events, wait):
                async for event in events:
                    wait.hear(event)
                    await self._emit(prompt, generation.take(event), announcing)
                    if generation.finished:
                        break
            await self._emit(prompt, generation.end(), announcing)
            await announcing
        finally:
            if not announcing.done():
                announcing.cancel()
            with suppress(VlmError, asyncio.CancelledError):
                await announcing
        if not generation.finished:
            raise Internal("The engine ended a prompt without an answer.")
        return generation

    async def _emit(
        self, prompt: RunningPrompt, text: str, announcing: asyncio.Future[None]
    ) -> None:
        if text:
            prompt.unsent = text
            await announcing
            self._send_rest(prompt)

    def _send_rest(self, prompt: RunningPrompt) -> None:
        if prompt.unsent:
            prompt.channel.put_nowait(TextDelta(text=prompt.unsent))
            prompt.unsent = ""

    def _turn(self, prompt: RunningPrompt, prepared: PreparedTurn) -> Turn:
        return Turn(
            turn_id=uuid.uuid4().hex,
            tokens=prepared.tokens,
            images=prepared.images,
            sampling=to_sampling(prompt.options, self._settings, room=prepared.max_new_tokens),
            retention=prepared.retention,
            salt=salt_of(prompt.work.client),
            client=prompt.client,
        )

    @asynccontextmanager
    async def _submitted(
        self, turn: Turn, pixels: PixelSource
    ) -> AsyncIterator[tuple[AsyncIterator[Event], Wait]]:
        """The turn's events, and its wait; leaving the block ends it in the engine."""
        with self._backlog.waiting(turn.client) as wait:
            events = self._engine.submit(turn, pixels)
            try:
                yield events, wait
            finally:
                if isinstance(events, AsyncGenerator):
                    await events.aclose()
                else:
                    await self._engine.cancel(turn.turn_id)

    async def _cancelled_answer(self, prompt: RunningPrompt) -> Answer:
        """What there is of the answer; what was announced with it holds all the same."""
        if prompt.work.lifetime is None:
            with suppress(VlmError):  # the session may be what was ended
                await prompt.work.announce()
        self._send_rest(prompt)
        return self._as_cancelled(prompt)

    def _as_cancelled(self, prompt: RunningPrompt) -> Answer:
        generation = prompt.generation or Generation(
            self._processor, (), num_prompt_tokens=0, started=prompt.started
        )
        return generation.for_client(prompt.work.lifetime, cancelled=True)

    def _settle(self, prompt: RunningPrompt, task: asyncio.Task[None]) -> None:
        """Speak for a task that could not: cancelled at its first step, or failed at its last."""
        if task.cancelled():
            asked = prompt.ending is Ending.CANCELLED
            prompt.channel.put_nowait(self._as_cancelled(prompt) if asked else _shutting_down())
        elif (exc := task.exception()) is not None:
            prompt.channel.put_nowait(_bug(prompt, exc))


def _bug(prompt: RunningPrompt, exc: BaseException) -> Internal:
    _log.error(
        "prompt_failed",
        exc_info=exc,
        request_id=prompt.request_id,
        session_id=prompt.work.session_id,
    )
    return Internal("The service failed on this prompt; the session is as it was.")


def _shutting_down() -> Draining:
    return Draining("The service is shutting down. Send the prompt again.")
