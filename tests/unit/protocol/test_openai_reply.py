"""OpenAI's own types accept what we write."""

from __future__ import annotations

import json

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.stub_service import answer
from vlm_sessions.errors import EngineLost, InvalidField, QueueFull
from vlm_sessions.protocol.openai_reply import ChatWriter, openai_error, openai_models
from vlm_sessions.protocol.schema import TextDelta

WRITER = ChatWriter(completion_id="chatcmpl-1", created=1_767_323_045, model="demo")


def chunks(data: bytes) -> list[ChatCompletionChunk]:
    lines = [line for line in data.decode().split("\n\n") if line and line != "data: [DONE]"]
    return [
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "), strict=True)
        for line in lines
    ]


def test_an_answer_is_a_chat_completion() -> None:
    completion = ChatCompletion.model_validate_json(WRITER.answer(answer()), strict=True)

    assert completion.id == "chatcmpl-1"
    assert completion.created == 1_767_323_045
    assert completion.choices[0].message.content == "a red circle"


def test_all_parts_of_a_stream_are_chunks_and_done_ends_it() -> None:
    data = WRITER.stream_start() + WRITER.stream_delta(TextDelta(text="a\n\n☃"))
    end = WRITER.stream_answer(answer())

    assert [chunk.choices[0].delta.content for chunk in chunks(data)] == ["", "a\n\n☃"]
    assert chunks(end)[-1].choices[0].finish_reason == "stop"
    assert end.endswith(b"data: [DONE]\n\n")


def test_a_cancelled_answer_has_a_reason_that_clients_know() -> None:
    cancelled = answer().model_copy(update={"finish_reason": "cancelled"})

    completion = ChatCompletion.model_validate_json(WRITER.answer(cancelled), strict=True)

    assert completion.choices[0].finish_reason == "stop"


def test_turns_that_the_model_was_not_given_are_told_and_else_not_mentioned() -> None:
    short = answer().usage.model_copy(update={"dropped_turns": 2})
    shortened = WRITER.answer(answer().model_copy(update={"usage": short}))

    assert ChatCompletion.model_validate_json(shortened, strict=True)
    assert json.loads(shortened)["usage"]["dropped_turns"] == 2
    assert "dropped_turns" not in json.loads(WRITER.answer(answer()))["usage"]


def test_the_list_of_models_holds_the_one_served() -> None:
    listed = json.loads(openai_models("demo", 1_767_323_045))

    assert listed["object"] == "list"
    assert [Model.model_validate(model, strict=True).id for model in listed["data"]] == ["demo"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidField("x"), "invalid_request_error"),
        (QueueFull("x"), "rate_limit_error"),
        (EngineLost("x"), "server_error"),
    ],
)
def test_errors_have_a_type_of_openai_and_a_code_of_ours(
    error: InvalidField | QueueFull | EngineLost, kind: str
) -> None:
    assert json.loads(openai_error(error))["error"] == {
        "message": "x",
        "type": kind,
        "param": None,
        "code": error.code,
    }
