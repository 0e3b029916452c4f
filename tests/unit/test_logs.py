"""Logs are JSON lines that nobody can forge and that keep what people wrote to themselves."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from tests.support.door import REQUEST_ID, events_of, in_session, make_endpoint, request
from tests.support.stub_service import FORK, SESSION, StubService
from vlm_sessions.logs import (
    bound_context,
    capture_standard_logs,
    configure_logs,
    get_logger,
)

PROMPT = in_session({"type": "prompt", "prompt": "What is my secret?", "stream": True})


@pytest.fixture(autouse=True)
def _defaults_restored() -> Iterator[None]:
    captured = [logging.getLogger(name) for name in ("vlm_sessions", "asyncio")]
    before = [(one.handlers, one.propagate, one.level) for one in captured]
    yield
    structlog.reset_defaults()
    for logger, (handlers, propagate, level) in zip(captured, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_on_one_line() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    get_logger("engine").warning("restarted", pid=7, reason='a\n{"event":"forged"}\u2028')

    (line,) = lines(stream)
    assert line["event"] == "restarted"
    assert line["level"] == "warning"
    assert line["component"] == "engine"
    assert line["reason"] == 'a\n{"event":"forged"}\u2028'
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None


def test_levels_below_the_one_set_are_not_written() -> None:
    stream = io.StringIO()
    configure_logs("warning", log_content=False, stream=stream)

    logger = get_logger("x")
    logger.debug("a")
    logger.info("b")
    logger.error("c")

    assert [line["event"] for line in lines(stream)] == ["c"]


def test_context_is_on_every_line_inside_and_on_none_after() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    with bound_context(request_id="r", session_id="s"):
        get_logger("x").info("inside")
    get_logger("x").info("outside")

    inside, outside = lines(stream)
    assert (inside["request_id"], inside["session_id"]) == ("r", "s")
    assert "request_id" not in outside


@pytest.mark.parametrize("log_content", [False, True])
def test_exceptions_keep_their_messages_to_themselves_unless_content_is_logged(
    log_content: bool,
) -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=log_content, stream=stream)

    try:
        fail_over("what someone wrote".upper())
    except ValueError as error:
        get_logger("x").error("failed", exc_info=error)
        get_logger("x").exception("failed")

    for line in lines(stream):
        assert "fail_over" in line["exception"]
        assert "KeyError" in line["exception"]
        assert ("WHAT SOMEONE WROTE" in line["exception"]) == log_content


def fail_over(text: str) -> None:
    """Raises an error that quotes ``text``, caused by another that does."""
    known: dict[str, str] = {}
    try:
        known[text]
    except KeyError as error:
        raise ValueError(text) from error


async def test_an_exception_that_nobody_saw_to_is_one_line_without_its_message() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)
    capture_standard_logs()
    loop = asyncio.get_running_loop()
    lost = loop.create_future()
    lost.set_exception(ValueError("what someone wrote"))

    loop.default_exception_handler(
        {
            "message": "Task exception was never retrieved",
            "exception": lost.exception(),
            "future": lost,
        }
    )

    (line,) = lines(stream)
    assert (line["event"], line["component"]) == ("Task exception was never retrieved", "asyncio")
    assert "ValueError" in line["exception"]
    assert "someone" not in stream.getvalue()


def test_what_modules_write_through_logging_comes_out_like_all_others() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)
    capture_standard_logs()

    logging.getLogger("vlm_sessions.engine").critical("lost %s", "it")

    (line,) = lines(stream)
    assert (line["event"], line["level"], line["component"]) == ("lost it", "critical", "engine")


def test_content_is_dropped_whoever_logs_it() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    get_logger("x").info("asked", content="what someone wrote")

    assert "content" not in lines(stream)[0]


def test_a_log_that_nobody_reads_any_more_harms_nobody() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)
    stream.close()

    get_logger("x").info("lost")

    assert stream.closed


async def test_a_request_is_one_line_with_its_ids_and_figures() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    await events_of(await make_endpoint(StubService()).handle(PROMPT))

    (line,) = lines(stream)
    assert line["event"] == "request"
    assert line["request_id"] == REQUEST_ID
    assert line["session_id"] == SESSION
    assert line["operation"] == "prompt"
    assert line["status"] == 200
    assert line["cached_tokens"] == 70
    assert line["duration_ms"] >= 0


async def test_an_open_is_logged_with_the_id_that_it_made() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    await make_endpoint(StubService()).handle(request({"type": "open_session"}))

    assert lines(stream)[0]["session_id"] == SESSION


async def test_a_fork_is_logged_with_its_id_and_its_parents() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    endpoint = make_endpoint(StubService())
    await endpoint.handle(in_session({"type": "fork_session"}))
    await endpoint.handle(in_session({"type": "rewind_session"}))

    forked, rewound = lines(stream)
    assert (forked["session_id"], forked["parent_session_id"]) == (FORK.session_id, SESSION)
    assert rewound["session_id"] == SESSION
    assert "parent_session_id" not in rewound


async def test_a_refusal_is_logged_with_its_code() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    await make_endpoint(StubService()).handle(request(b"{"))

    assert (lines(stream)[0]["status"], lines(stream)[0]["code"]) == (400, "invalid_json")


async def test_a_stream_left_early_says_so() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    reply = await make_endpoint(StubService()).handle(PROMPT)
    await reply.body.aclose()  # type: ignore[union-attr]

    assert [line["abandoned"] for line in lines(stream)] == [True]


async def test_probes_are_logged_only_when_looking_closely() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)
    endpoint = make_endpoint(StubService())

    await endpoint.handle(request(path="/ping", method="GET"))
    configure_logs("debug", log_content=False, stream=stream)
    await endpoint.handle(request(path="/ping", method="GET"))

    assert [line["route"] for line in lines(stream)] == ["ping"]


@pytest.mark.parametrize("log_content", [False, True])
async def test_what_people_wrote_is_logged_only_where_the_setting_asks_for_it(
    log_content: bool,
) -> None:
    stream = io.StringIO()
    configure_logs("debug", log_content=log_content, stream=stream)
    endpoint = make_endpoint(StubService(), log_content=log_content)

    await events_of(await endpoint.handle(PROMPT))
    await endpoint.handle(in_session({"messages": [{"role": "user", "content": "my secret"}]}))
    await endpoint.handle(in_session({"type": "prompt", "prompt": "secret", "top_k": -1}))

    text = stream.getvalue()
    assert ("secret" in text) == log_content
    assert ("red circle" in text) == log_content


async def test_a_bug_is_logged_where_it_happened_with_the_request() -> None:
    stream = io.StringIO()
    configure_logs("info", log_content=False, stream=stream)

    await make_endpoint(StubService(refusal=KeyError("secret"))).handle(PROMPT)

    bug, line = lines(stream)
    assert bug["event"] == "unexpected_error"
    assert bug["request_id"] == REQUEST_ID
    assert "builtins.KeyError" in bug["exception"]
    assert "secret" not in stream.getvalue()
    assert line["code"] == "internal"
