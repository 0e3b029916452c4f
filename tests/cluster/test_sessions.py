"""Each session stays with the replica that opened it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import aiohttp
import httpx
import pytest

from tests.cluster.parts import (
    SESSION,
    Fake,
    Routing,
    ask,
    code_of,
    invoke,
    open_session,
)

NUM_SESSIONS = 200
NUM_PROMPTS = 2000
NUM_CLIENTS = 32


def num_received(replicas: list[Fake]) -> int:
    return sum(len(fake.seen()["received"]) for fake in replicas)


async def by_many_clients(
    requests: list[Coroutine[Any, Any, dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Their replies, in order; so many are under way at once."""
    gate = asyncio.Semaphore(NUM_CLIENTS)

    async def one(request: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        async with gate:
            return await request

    return list(await asyncio.gather(*map(one, requests)))


async def test_200_sessions_and_2000_prompts_all_stay_with_their_replicas(
    routing: Routing, replicas: list[Fake]
) -> None:
    before = num_received(replicas)
    async with aiohttp.ClientSession(routing.url) as http:

        async def post(body: dict[str, str], session: str = "") -> dict[str, Any]:
            reply = await http.post("/invocations", json=body, headers={SESSION: session})
            assert reply.status == 200
            return dict(await reply.json())

        opened = await by_many_clients(
            [post({"type": "open_session"}) for _ in range(NUM_SESSIONS)]
        )
        owners = {reply["session_id"]: reply["replica"] for reply in opened}
        sessions = list(owners) * (NUM_PROMPTS // NUM_SESSIONS)
        answers = await by_many_clients([post({"type": "prompt"}, each) for each in sessions])
    misrouted = [
        session
        for session, answer in zip(sessions, answers, strict=True)
        if answer["replica"] != owners[session]
    ]
    assert misrouted == []
    turns = Counter((each, answer["turn"]) for each, answer in zip(sessions, answers, strict=True))
    assert turns == {(each, turn): 1 for each in owners for turn in range(10)}
    shares = Counter(owners.values())
    assert max(shares.values()) - min(shares.values()) <= NUM_SESSIONS // 10
    # The table knew them all: no replica was asked for a session's owner.
    assert num_received(replicas) - before == NUM_SESSIONS + NUM_PROMPTS


@pytest.mark.parametrize("name", ["x-amzn-sagemaker-session-id", "X-AMZN-SAGEMAKER-SESSION-ID"])
def test_the_headers_letter_case_does_not_matter(http: httpx.Client, name: str) -> None:
    session, owner = open_session(http)
    for turn in range(3):
        reply = http.post("/invocations", json={"type": "prompt"}, headers={name: session})
        assert reply.json() == {"replica": owner, "turn": turn}


@pytest.mark.parametrize("value", ["NEW_SESSION", ""])
def test_a_header_that_names_no_session_opens_one(http: httpx.Client, value: str) -> None:
    reply = invoke(http, {"requestType": "NEW_SESSION"}, value)
    session = reply.json()["session_id"]
    assert reply.headers["X-Amzn-SageMaker-New-Session-Id"].startswith(session + ";")
    assert ask(http, session).json()["replica"] == reply.json()["replica"]


def test_a_session_is_continued_by_chat_completions_too(http: httpx.Client) -> None:
    session, owner = open_session(http)
    reply = http.post("/v1/chat/completions", json={}, headers={SESSION: session})
    assert reply.json() == {"replica": owner, "turn": 0}


def test_a_fork_is_known_to_belong_where_its_parent_does(
    http: httpx.Client, replicas: list[Fake]
) -> None:
    parent, owner = open_session(http)
    fork = invoke(http, {"type": "fork_session"}, parent).json()["session_id"]
    before = num_received(replicas)
    assert ask(http, fork).json() == {"replica": owner, "turn": 0}
    assert num_received(replicas) - before == 1, "no replica was asked whose it is"
    assert ask(http, parent).json() == {"replica": owner, "turn": 0}


def test_a_picture_of_many_buffers_passes_as_a_body_and_in_a_prompt(http: httpx.Client) -> None:
    picture = bytes(20_000_000)
    opened = http.post("/invocations", content=picture, headers={"Content-Type": "image/png"})
    assert opened.json()["bytes"] == len(picture)
    session = opened.json()["session_id"]
    assert ask(http, session, images=["x" * 20_000_000]).json()["turn"] == 0


@pytest.mark.parametrize(
    "session",
    ["a_b", "-a", "a-", "a;b", "a, b", "a b", "é", "x" * 65, "a" * 5000, "../x", "new_session"],
)
def test_a_malformed_id_is_refused_and_no_replica_asked(
    http: httpx.Client, replicas: list[Fake], session: str
) -> None:
    before = num_received(replicas)
    reply = http.post(
        "/invocations",
        json={"type": "prompt"},
        headers={SESSION.encode(): session.encode("latin-1")},
    )
    assert code_of(reply) == (400, "malformed_session_id")
    assert num_received(replicas) == before


@pytest.mark.parametrize("other", ["ts-seq-another", "NEW_SESSION", ""])
def test_two_session_headers_are_refused_whichever_comes_last(
    http: httpx.Client, replicas: list[Fake], other: str
) -> None:
    session, _ = open_session(http)
    before = num_received(replicas)
    for values in [(session, other), (other, session)]:
        headers = [(SESSION, value) for value in values]
        reply = http.post("/invocations", json={"type": "prompt"}, headers=headers)
        assert code_of(reply) == (400, "malformed_session_id")
    assert num_received(replicas) == before


def test_an_id_that_no_replica_knows_is_404_once_all_have_been_asked(
    http: httpx.Client, replicas: list[Fake]
) -> None:
    before = num_received(replicas)
    assert code_of(ask(http, "ts-seq-unknown")) == (404, "session_not_found")
    assert num_received(replicas) - before == len(replicas)


def test_a_closed_session_is_410_from_its_owner(http: httpx.Client) -> None:
    session, _ = open_session(http)
    closed = invoke(http, {"type": "close_session"}, session)
    assert closed.headers["X-Amzn-SageMaker-Closed-Session-Id"] == session
    assert code_of(ask(http, session)) == (410, "session_closed")


def test_the_replys_own_headers_come_through(http: httpx.Client) -> None:
    session, owner = open_session(http)
    reply = ask(http, session)
    assert reply.headers["X-Request-Id"].startswith(f"{owner}-")


def test_a_stream_comes_as_it_is_written(routing: Routing, http: httpx.Client) -> None:
    session, owner = open_session(http)
    body = {"type": "prompt", "tokens": 4, "pace": 0.2, "stream": True}
    headers = {SESSION: session}
    with http.stream("POST", "/invocations", json=body, headers=headers) as reply:
        chunks = list(reply.iter_text())
    assert len(chunks) >= 4
    assert f'"replica": "{owner}"' in chunks[-1]


def test_requests_on_one_connection_go_each_to_its_own_owner(http: httpx.Client) -> None:
    sessions = dict(open_session(http) for _ in range(6))
    assert len(set(sessions.values())) == 3
    for session, owner in sessions.items():  # one keep-alive connection
        assert ask(http, session).json()["replica"] == owner


def test_ping_tells_sessions_and_the_state_of_each_replica(
    routing: Routing, http: httpx.Client
) -> None:
    open_session(http)
    reply = http.get("/ping")
    assert reply.status_code == 200
    assert reply.json()["status"] == "Healthy"
    assert reply.json()["open_sessions"] > 0
    assert set(reply.json()["replicas"].items()) == {(name, "ready") for name in "abc"}
