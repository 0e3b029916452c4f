"""OpenAI's requests: what is acted on, accepted, refused."""

from __future__ import annotations

from typing import Any

import pytest

from vlm_sessions.errors import InvalidField
from vlm_sessions.protocol.openai_request import NEUTRAL_VALUES, read_chat_request
from vlm_sessions.protocol.schema import Chat, ChatMessage

USER = {"role": "user", "content": "Hi"}


def read(**fields: Any) -> Chat:
    return read_chat_request({"messages": [USER], **fields}).chat


def test_parts_are_sorted_into_images_and_joined_texts() -> None:
    chat = read(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare"},
                    {"type": "image_url", "image_url": {"url": "http://x/a.png", "detail": "low"}},
                    {"type": "text", "text": "these"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
                ],
            },
        ]
    )

    assert chat.messages == (
        ChatMessage(role="system", text="Be brief."),
        ChatMessage(role="user", text="Hi"),
        ChatMessage(role="assistant", text="Hello"),
        ChatMessage(
            role="user",
            text="Compare\nthese",
            images=("http://x/a.png", "data:image/png;base64,iVBO"),
        ),
    )


def test_options_are_translated() -> None:
    chat = read(
        max_completion_tokens=7, temperature=0.5, top_p=0.9, top_k=-1, seed=3, stop=".", stream=True
    )

    assert chat == Chat(
        messages=(ChatMessage(role="user", text="Hi"),),
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        seed=3,
        stop=(".",),
        stream=True,
    )


def test_without_options_it_is_greedy_and_whole() -> None:
    assert read() == Chat(messages=(ChatMessage(role="user", text="Hi"),))


@pytest.mark.parametrize("names", [("max_tokens",), ("max_tokens", "max_completion_tokens")])
def test_both_names_of_the_token_limit_work(names: tuple[str, ...]) -> None:
    assert read(**dict.fromkeys(names, 5)).max_new_tokens == 5


def test_a_message_may_be_sent_back_as_the_client_received_it() -> None:
    received: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }

    assert read(messages=[USER, received, USER]).messages[1].text == "Hello"


def test_fields_that_change_nothing_are_accepted() -> None:
    read(
        model="gpt", user="ann", metadata={"a": "b"}, store=True, service_tier="auto", stop=None,
        stream_options=None, parallel_tool_calls=True, n=1, frequency_penalty=0.0,
        presence_penalty=0, logprobs=False, tools=[], response_format={"type": "text"},
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(NEUTRAL_VALUES))
def test_what_we_do_not_do_is_accepted_only_where_nothing_is_asked(name: str) -> None:
    for value in (None, *NEUTRAL_VALUES[name]):
        read(**{name: value})
    with pytest.raises(InvalidField, match=rf"chat\.{name}: not supported here; leave it out\."):
        read(**{name: {"type": "something"}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "chat.n: not supported"),
        ({"n": True}, "chat.n: not supported"),
        ({"logprobs": True}, "chat.logprobs: not supported"),
        ({"response_format": {"type": "json_object"}}, "chat.response_format: not supported"),
        ({"tools": [{"type": "function"}]}, "chat.tools: not supported"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "send one of the two"),
        ({"top_k": 2**64}, "chat.top_k: must be below 2147483648"),
        ({"max_tokens": 10**30}, "chat.max_tokens: must be below 2147483648"),
        ({"temperature": "hot"}, "chat.temperature: must be a number"),
        ({"temperature": 9}, "chat.temperature: must be at most 5"),
        ({"stop": 3}, "chat.stop"),
        ({"stop": ""}, r"chat.stop\[0\]: must have at least 1"),
        ({"stop": ["a"] * 9}, "chat.stop: must have at most 8 items"),
        ({"temprature": 1}, "chat.temprature: is not a known field; did you mean temperature"),
        ({"stream_options": {"include_use": True}}, "chat.stream_options.include_use"),
        ({"messages": None}, "chat.messages: is required"),
        ({"messages": []}, "chat.messages: must have at least 1"),
        ({"messages": "Hi"}, "chat.messages: must be a list"),
        ({"messages": ["Hi"]}, r"chat.messages\[0\]: must be an object"),
        ({"messages": [{"content": "Hi"}]}, r"messages\[0\].role: must be"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, r"messages\[0\].role: must be"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, r"messages\[0\].role: must be"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content: is required"),
        ({"messages": [{"role": "user", "content": ""}]}, r"messages\[0\].content: is required"),
        ({"messages": [{"role": "user", "content": 3}]}, "must be a string or a list of parts"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, r"content\[0\]: must be a text or"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            r"messages\[0\].content\[0\]: must be a text or an image_url part",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            r"messages\[0\].content\[0\].image_url: must be an object",
        ),
        ({"messages": [{**USER, "tool_calls": [{}]}]}, r"messages\[0\].tool_calls: not supported"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "the last one must be"),
        (
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                    },
                    USER,
                ]
            },
            "only a user's message may hold images",
        ),
    ],
)
def test_a_bad_chat_is_refused_with_the_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        read(**fields)
