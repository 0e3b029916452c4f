"""The official ``openai`` client against the endpoint, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support.door import MODEL, make_endpoint
from tests.support.openai_transport import EndpointTransport
from tests.support.stub_service import SESSION, StubService, refusing
from vlm_sessions.errors import (
    ContextOverflow,
    ConversationMismatch,
    DeadlineExceeded,
    EngineLost,
    QueueFull,
    VlmError,
)
from vlm_sessions.protocol.schema import Chat, TextDelta

QUESTION: list[ChatCompletionMessageParam] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        ],
    }
]


@pytest.fixture
def service() -> StubService:
    return StubService()


@pytest.fixture
async def client(service: StubService) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = EndpointTransport(make_endpoint(service))
    async with (
        httpx2.AsyncClient(transport=transport) as http_client,
        openai.AsyncOpenAI(
            base_url="http://door/v1", api_key="none", http_client=http_client, max_retries=0
        ) as client,
    ):
        yield client


async def test_a_whole_answer(client: openai.AsyncOpenAI, service: StubService) -> None:
    completion = await client.chat.completions.create(model=MODEL, messages=QUESTION)

    assert completion.choices[0].message.content == "a red circle"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == MODEL
    assert completion.usage is not None
    assert completion.usage.total_tokens == 83
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 70
    assert isinstance(service.command, Chat)
    assert service.command.messages[0].images == ("data:image/png;base64,iVBO",)


async def test_a_streamed_answer_begins_with_its_role_and_ends_with_its_reason(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a red circle"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_comes_last_where_it_is_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_session_header_keeps_a_chat_to_its_session(
    client: openai.AsyncOpenAI, service: StubService
) -> None:
    reply = await client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=QUESTION,
        extra_headers={"X-Amzn-SageMaker-Session-Id": SESSION},
    )

    assert service.asked[-1].session_id == SESSION
    assert reply.headers["X-Amzn-SageMaker-Session-Id"].startswith(f"{SESSION}; Expires=")


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]


async def test_a_bad_field_is_a_bad_request_with_our_code(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"chat\.n: not supported") as caught:
        await client.chat.completions.create(model=MODEL, messages=QUESTION, n=2)

    assert caught.value.code == "invalid_field"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_service_keeps_its_status_also_when_streamed(
    client: openai.AsyncOpenAI, service: StubService, stream: bool
) -> None:
    service.script = (ContextOverflow("Too long."),)

    with pytest.raises(openai.UnprocessableEntityError, match=r"Too long\."):
        await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=stream)


async def test_a_full_queue_is_a_rate_limit_with_the_time_to_wait() -> None:
    transport = EndpointTransport(make_endpoint(refusing(QueueFull("Full.", retry_after=2.2))))
    async with httpx2.AsyncClient(transport=transport) as http_client:
        client = openai.AsyncOpenAI(
            base_url="http://door/v1", api_key="none", http_client=http_client, max_retries=0
        )
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=QUESTION)

    assert caught.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "error", [ConversationMismatch("No."), DeadlineExceeded("Late.")], ids=lambda e: e.code
)
async def test_what_cannot_succeed_later_is_not_sent_again_by_the_client(
    error: VlmError,
) -> None:
    service = refusing(error)
    async with httpx2.AsyncClient(transport=EndpointTransport(make_endpoint(service))) as http:
        client = openai.AsyncOpenAI(base_url="http://door/v1", api_key="none", http_client=http)
        assert client.max_retries > 0
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model=MODEL, messages=QUESTION)

    assert len(service.asked) == 1


async def test_a_failure_amid_a_stream_raises_in_the_client(
    client: openai.AsyncOpenAI, service: StubService
) -> None:
    service.script = (TextDelta(text="a"), EngineLost("The engine died."))

    stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    start, piece = await anext(stream), await anext(stream)
    with pytest.raises(openai.APIError, match=r"The engine died\."):
        await anext(stream)

    assert start.choices[0].delta.role == "assistant"
    assert piece.choices[0].delta.content == "a"
