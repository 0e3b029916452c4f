from __future__ import annotations

import pytest

from vlm_sessions.client import RetryPolicy
from vlm_sessions.client.wire import Reply, Request, rewind_session

OPEN = Request(b"{}", opens=True)
PROMPT = Request(b"{}", session_id="s", is_prompt=True)


@pytest.mark.parametrize("status", [429, 503])
def test_a_refused_open_is_sent_again_after_what_the_service_asks_for(status: int) -> None:
    assert RetryPolicy().pause(OPEN, Reply(status, b"", retry_after=3.0), num_tries=1) == 3.0


@pytest.mark.parametrize("status", [200, 400, 410, 500, 504])
def test_nothing_else_is_sent_again(status: int) -> None:
    assert RetryPolicy().pause(OPEN, Reply(status, b"", retry_after=3.0), num_tries=1) is None


def test_prompts_are_sent_again_only_when_asked_for() -> None:
    busy = Reply(429, b"", retry_after=1.0)
    assert RetryPolicy().pause(PROMPT, busy, num_tries=1) is None
    assert RetryPolicy(prompts=True).pause(PROMPT, busy, num_tries=1) == 1.0


def test_turns_are_not_taken_back_a_second_time_when_nobody_knows_of_the_first() -> None:
    rewind = rewind_session("s", 1)
    assert RetryPolicy().pause(rewind, Reply(503, b"", retry_after=1.0), num_tries=1) is None
    assert RetryPolicy().pause(rewind, Reply(429, b"", retry_after=1.0), num_tries=1) == 1.0


def test_it_gives_up_after_so_many_retries() -> None:
    busy = Reply(429, b"", retry_after=1.0)
    assert RetryPolicy(num_retries=2).pause(OPEN, busy, num_tries=2) == 1.0
    assert RetryPolicy(num_retries=2).pause(OPEN, busy, num_tries=3) is None


def test_a_pause_that_is_too_long_is_not_waited_for() -> None:
    assert RetryPolicy().pause(OPEN, Reply(503, b"", retry_after=600.0), num_tries=1) is None
