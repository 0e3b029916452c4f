"""A client that asks: it reads, slowly or at once, stays or leaves, and checks what it is told."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.expected import Oracle
from tests.simulation.requests import Asking
from tests.simulation.scene import Connection, Scene
from tests.simulation.witness import Witness
from vlm_sessions.protocol.schema import Answer, Chat, ChatMessage, Generate, Prompt, TextDelta
from vlm_sessions.service import AnswerStream


class Readers:
    """All clients that ask."""

    def __init__(self, scene: Scene, witness: Witness, oracle: Oracle) -> None:
        self._random = scene.random
        self._trace = scene.trace
        self._witness = witness
        self._oracle = oracle

    async def ask(self, to: Connection, request: Asking, *, patient: bool) -> None:
        """Ask, read, perhaps leave; see that what comes is right, and on the disk when it counts.

        Args:
            patient: reads at once, and stays.

        Raises:
            VlmError: the reply.
            AssertionError: something does not hold.
        """
        random = self._random
        self._witness.ask(request)
        stream = await self._send(to, request)
        reading = asyncio.create_task(self._read(request, stream, patient=patient))
        leaving: asyncio.TimerHandle | None = None
        if not patient and random.random() < 0.15:
            leaving = to.loop.call_later(random.expovariate(5), reading.cancel)
        await asyncio.wait([reading])
        if leaving is not None:
            leaving.cancel()
        if reading.cancelled():
            await stream.events.aclose()
            request.was_denied = not request.is_recorded
            self._trace.add(to.loop.time(), f"{request.name}: its client left")
            return
        answer = await reading
        assert "".join(request.deltas) == answer.text
        if answer.finish_reason == "cancelled":
            assert not request.is_recorded, "a cancelled prompt leaves no trace"
            request.was_denied = True
        elif request.session_id is None:
            assert answer.text == self._oracle.alone(request)
        else:
            assert not request.was_denied
            self._witness.check_on_disk(request, to.directory)
        if answer.lifetime is not None:
            self._witness.tell(answer.lifetime)

    async def _send(self, to: Connection, request: Asking) -> AnswerStream:
        random = self._random
        images = tuple(p.as_input(raw=random.random() < 0.5) for p in request.pictures)
        options: dict[str, Any] = {
            "max_new_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": request.stop,
            "ignore_eos": request.ignore_eos,
            "stream": request.stream,
        }
        service, name = to.service, request.name
        if request.session_id is None:
            generate = Generate(
                prompt=request.text, images=images, system=request.system, **options
            )
            return await service.generate(generate, name)
        if images or random.random() < 0.7:
            prompt = Prompt(prompt=request.text, images=images, **options)
            return await service.prompt(request.session_id, prompt, name)
        question = ChatMessage(role="user", text=request.text)
        chat = Chat(messages=(*self._history(request.session_id), question), **options)
        return await service.prompt(request.session_id, chat, name)

    def _history(self, session_id: str) -> tuple[ChatMessage, ...]:
        """All that was said in a session, or nothing, as chat clients have it."""
        session = self._witness.sessions.get(session_id)
        if session is None or self._random.random() < 0.5:
            return ()
        return tuple(
            message
            for turn in session.turns
            for message in (
                ChatMessage(role="user", text=turn.prompt),
                ChatMessage(role="assistant", text=turn.answer),
            )
        )

    async def _read(self, request: Asking, stream: AnswerStream, *, patient: bool) -> Answer:
        is_slow = not patient and self._random.random() < 0.3
        answer: Answer | None = None
        is_first = True
        async for event in stream.events:
            if is_first and stream.lifetime is not None:
                self._witness.tell(stream.lifetime)
            is_first = False
            assert answer is None, "nothing follows the answer"
            if isinstance(event, TextDelta):
                request.deltas.append(event.text)
                if is_slow:
                    seconds = self._random.expovariate(1)
                    request.seconds_away += seconds
                    await asyncio.sleep(seconds)
            else:
                answer = event
        assert answer is not None, "a stream ends with an answer or an error"
        return answer
