"""A streamed reply's body: events in a dialect's words, ending well whatever happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from vlm_sessions.endpoint.exchange import Exchange
from vlm_sessions.errors import Internal, VlmError
from vlm_sessions.protocol.dialects import ReplyWriter
from vlm_sessions.protocol.schema import Answer, AnswerEvent, TextDelta


class StreamBody(AsyncIterator[bytes]):
    """Chunks of a stream whose first event is known already.

    Never raises: a late failure becomes the stream's last event. Who leaves early calls ``aclose``,
    which cancels the prompt; it may be called at any time, also before the first chunk was taken,
    where a plain generator's ``aclose`` would not reach the events.
    """

    def __init__(
        self,
        first: AnswerEvent,
        events: AsyncGenerator[AnswerEvent],
        writer: ReplyWriter,
        exchange: Exchange,
    ) -> None:
        self._events = events
        self._writer = writer
        self._exchange = exchange
        self._chunks = self._write(first)

    def __aiter__(self) -> StreamBody:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """End the stream and the prompt behind it. Safe to call twice, and after the end.

        Not while another task waits for the next chunk: cancel that task instead, to the same end.
        """
        await self._chunks.aclose()
        await self._events.aclose()
        self._exchange.finish(200, abandoned=True)

    async def _write(self, first: AnswerEvent) -> AsyncGenerator[bytes]:
        error: VlmError | None = None
        ended = False
        try:
            yield self._writer.stream_start() + self._event(first)
            async for event in self._events:
                yield self._event(event)
            ended = True
        except VlmError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - the boundary: nothing may leave a stream that runs
            self._exchange.crashed(exc)
            error = Internal("An error of ours ended the answer. The session is as it was.")
        finally:
            await self._events.aclose()
            self._exchange.finish(200, error, abandoned=not ended and error is None)
        if error is not None:
            yield self._writer.stream_error(error)

    def _event(self, event: AnswerEvent) -> bytes:
        match event:
            case TextDelta():
                return self._writer.stream_delta(event)
            case Answer():
                return self._writer.stream_answer(event)
