"""Replicas that die, freeze, drain and come back, behind routers that wait long or hardly."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.cluster.parts import (
    POLL_SECONDS,
    SESSION,
    Fake,
    Routing,
    ask,
    code_of,
    fakes,
    invoke,
    open_at,
    open_session,
    router,
    wait_until,
)
from vlm_sessions.cluster.router import MAX_FINDING

SHORT_HOLD_SECONDS = 1.0
SHORT_AWAY_SECONDS = 3


@pytest.fixture(scope="module")
def all_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    state_dir = tmp_path_factory.mktemp("state")
    with fakes(3, state_dir, VLM_DRAIN_NOTICE_SECONDS="1.5") as started:
        yield started


@pytest.fixture(scope="module")
def routing(
    all_replicas: list[Fake], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Routing]:
    """Holds requests for as long as it does by default."""
    with router(all_replicas, tmp_path_factory.mktemp("router")) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(
    all_replicas: list[Fake], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Routing]:
    """A second router to the same replicas, which holds requests for a moment only."""
    options = [f"--hold-seconds={SHORT_HOLD_SECONDS}", f"--away-seconds={SHORT_AWAY_SECONDS}"]
    with router(all_replicas, tmp_path_factory.mktemp("router"), *options) as running:
        yield running


@pytest.fixture
def replicas(all_replicas: list[Fake], routing: Routing) -> Iterator[list[Fake]]:
    """All of them, ready; what a test did to them is undone."""
    yield all_replicas
    for fake in all_replicas:
        fake.thaw()
        if fake.process.poll() is not None:
            fake.restart()
    for fake in all_replicas:
        fake.wait_answering()
        fake.tell_ping(status=200, seconds=0.0)
        routing.wait_state(fake.name, "ready")


@pytest.fixture
def impatient_http(impatient: Routing) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=impatient.url, timeout=60) as client:
        yield client


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """For requests that go on while the test does something else."""
    with ThreadPoolExecutor(16) as threads:
        yield threads


def ask_aside(
    aside: ThreadPoolExecutor, routing: Routing, session: str, **options: Any
) -> Future[httpx.Response]:
    """A prompt on a connection of its own."""

    def send() -> httpx.Response:
        with httpx.Client(base_url=routing.url, timeout=120) as http:
            return ask(http, session, **options)

    return aside.submit(send)


# --- killed -----------------------------------------------------------------------------------


def test_sessions_of_a_killed_replica_are_410_at_once_and_no_others(
    http: httpx.Client, replicas: list[Fake]
) -> None:
    killed, *others = replicas
    lost = [open_at(http, killed) for _ in range(3)]
    kept = [open_at(http, other) for other in others for _ in range(3)]
    killed.kill()
    began = time.monotonic()
    for session in lost:  # the first of them before the router can have noticed
        assert code_of(ask(http, session)) == (410, "session_lost")
    assert time.monotonic() - began < POLL_SECONDS
    for session in kept:
        assert ask(http, session).json()["turn"] == 0


def test_a_session_lives_on_when_its_killed_replica_comes_back_on_its_state(
    http: httpx.Client, routing: Routing, replicas: list[Fake]
) -> None:
    killed = replicas[0]
    session = open_at(http, killed)
    assert ask(http, session).json()["turn"] == 0
    killed.kill()
    assert code_of(ask(http, session)) == (410, "session_lost")
    killed.restart()
    routing.wait_state(killed.name, "ready")
    assert ask(http, session).json() == {"replica": killed.name, "turn": 1}


def test_no_new_session_fails_while_a_replica_dies(
    http: httpx.Client, replicas: list[Fake]
) -> None:
    replicas[1].kill()
    opened = [open_session(http) for _ in range(20)]
    assert {owner for _, owner in opened} == {"a", "c"}


def test_a_prompt_whose_replica_is_killed_ends_with_an_error_in_json(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[2])
    running = ask_aside(aside, routing, session, tokens=600, pace=0.1)
    wait_until(lambda: replicas[2].seen()["prompts"] == 1)
    replicas[2].kill()
    status, code = code_of(running.result(POLL_SECONDS))
    assert (status, code) in {(502, "unavailable"), (410, "session_lost")}


def test_a_closed_session_stays_closed_when_its_replica_is_gone(
    http: httpx.Client, routing: Routing, replicas: list[Fake]
) -> None:
    session = open_at(http, replicas[0])
    invoke(http, {"type": "close_session"}, session)
    replicas[0].kill()
    routing.wait_state("a", "lost")
    assert code_of(ask(http, session)) == (410, "session_closed")


# --- frozen -----------------------------------------------------------------------------------


def test_a_frozen_replica_is_given_up_and_its_sessions_go_on_once_it_thaws(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    running = ask_aside(aside, routing, session, tokens=600, pace=0.1)
    wait_until(lambda: replicas[0].seen()["prompts"] == 1)
    replicas[0].freeze()
    # Running requests are shut, so that nobody waits for what will not come.
    assert code_of(running.result(20)) == (410, "session_lost")
    assert code_of(ask(http, session)) == (410, "session_lost")
    assert {open_session(http)[1] for _ in range(6)} == {"b", "c"}
    replicas[0].thaw()
    routing.wait_state("a", "ready")
    # The prompt that was shut has left no trace.
    assert ask(http, session).json() == {"replica": "a", "turn": 0}


def test_a_busy_replica_that_takes_its_time_over_ping_is_not_given_up(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    replicas[0].tell_ping(seconds=1.5)
    running = ask_aside(aside, routing, session, tokens=50, pace=0.1)
    assert running.result(20).json()["turn"] == 0
    assert routing.states()["a"] == "ready"


@pytest.mark.parametrize("silent", range(3))
def test_an_unknown_id_beside_a_silent_replica_does_no_harm(
    impatient: Routing,
    impatient_http: httpx.Client,
    http: httpx.Client,
    replicas: list[Fake],
    silent: int,
) -> None:
    answering = replicas[silent - 1]
    elsewhere = open_at(http, answering)
    haproxy = impatient.haproxy_pid()
    replicas[silent].freeze()
    # The others' replies to the question come at once, this one's not within seconds.
    assert code_of(ask(impatient_http, "ts-seq-unknown")) == (503, "unavailable")
    assert ask(impatient_http, elsewhere).json() == {"replica": answering.name, "turn": 0}
    assert impatient.haproxy_pid() == haproxy


# --- restarted --------------------------------------------------------------------------------


def test_a_draining_replica_finishes_its_answers_and_gets_nothing_new(
    http: httpx.Client, routing: Routing, replicas: list[Fake]
) -> None:
    draining = replicas[0]
    session = open_at(http, draining)
    body = {"type": "prompt", "tokens": 30, "pace": 0.1, "stream": True}
    with http.stream("POST", "/invocations", json=body, headers={SESSION: session}) as reply:
        chunks = reply.iter_text()
        text = next(chunks)
        draining.drain()
        routing.wait_state("a", "draining")
        with httpx.Client(base_url=routing.url) as other:
            assert {open_session(other)[1] for _ in range(6)} == {"b", "c"}
        text += "".join(chunks)
    assert "event: done" in text
    assert draining.process.wait(20) == 0


def test_requests_of_a_restarting_replica_wait_for_it(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    replicas[0].drain()
    routing.wait_state("a", "draining")
    waiting = [ask_aside(aside, routing, session) for _ in range(4)]
    assert replicas[0].process.wait(20) == 0
    waiting += [ask_aside(aside, routing, session) for _ in range(4)]
    routing.wait_state("a", "away")
    assert not any(each.done() for each in waiting)
    replicas[0].restart()
    replies = [each.result(60) for each in waiting]
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["replica"] for reply in replies} == {"a"}


def test_a_large_prompt_waits_with_its_whole_body(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    replicas[0].tell_ping(status=503)
    routing.wait_state("a", "restarting")
    waiting = ask_aside(aside, routing, session, images=["x" * 20_000_000])
    time.sleep(2.0)  # the router's buffers are full by now, and the client stands still
    assert not waiting.done()
    replicas[0].tell_ping(status=200)
    assert waiting.result(20).json() == {"replica": "a", "turn": 0}


def test_an_engine_that_is_being_replaced_does_not_end_the_running_answers(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    running = ask_aside(aside, routing, session, tokens=30, pace=0.1)
    wait_until(lambda: replicas[0].seen()["prompts"] == 1)
    replicas[0].tell_ping(status=503, code="engine_unavailable")
    routing.wait_state("a", "restarting")
    assert running.result(20).json()["turn"] == 0


def test_requests_wait_no_longer_than_they_are_told_to(
    impatient: Routing, impatient_http: httpx.Client, replicas: list[Fake]
) -> None:
    session = open_at(impatient_http, replicas[0])
    replicas[0].tell_ping(status=503)
    impatient.wait_state("a", "restarting")
    began = time.monotonic()
    refused = ask(impatient_http, session)
    assert code_of(refused) == (503, "unavailable")
    assert refused.headers["Retry-After"] == "1"
    assert time.monotonic() - began >= SHORT_HOLD_SECONDS
    replicas[0].kill()
    impatient.wait_state("a", "away")
    assert code_of(ask(impatient_http, session)) == (503, "unavailable")


def test_a_replica_that_does_not_come_back_from_its_restart_is_lost_in_the_end(
    impatient: Routing, impatient_http: httpx.Client, replicas: list[Fake]
) -> None:
    session = open_at(impatient_http, replicas[0])
    replicas[0].drain()
    impatient.wait_state("a", "away")
    assert impatient.wait_state("a", "lost") >= SHORT_AWAY_SECONDS - 1.5
    assert code_of(ask(impatient_http, session)) == (410, "session_lost")


def test_an_unknown_session_waits_for_a_replica_that_may_know_it(
    impatient_http: httpx.Client,
    http: httpx.Client,
    routing: Routing,
    replicas: list[Fake],
    aside: ThreadPoolExecutor,
) -> None:
    # Opened at the other router, which is no peer: this one has never heard of it.
    session = open_at(impatient_http, replicas[0])
    replicas[0].drain()
    assert replicas[0].process.wait(20) == 0
    waiting = ask_aside(aside, routing, session)
    assert code_of(ask(impatient_http, "ts-seq-nobodys")) == (503, "unavailable")
    assert not waiting.done()
    replicas[0].restart()
    assert waiting.result(60).json() == {"replica": "a", "turn": 0}


def test_without_any_ready_replica_new_sessions_wait_and_ping_is_503(
    http: httpx.Client,
    impatient_http: httpx.Client,
    replicas: list[Fake],
    aside: ThreadPoolExecutor,
) -> None:
    for fake in replicas:
        fake.tell_ping(status=503)
    wait_until(lambda: http.get("/ping").status_code == 503)
    wait_until(lambda: impatient_http.get("/ping").status_code == 503)
    waiting = aside.submit(lambda: open_session(http))
    assert code_of(invoke(impatient_http, {"type": "open_session"})) == (503, "unavailable")
    assert code_of(impatient_http.get("/ping")) == (503, "unavailable")
    assert not waiting.done()
    replicas[1].tell_ping(status=200)
    assert waiting.result(20)[1] == "b"


# --- clients that leave -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_turn_at_the_replica(
    routing: Routing, http: httpx.Client, replicas: list[Fake], stream: bool
) -> None:
    session = open_at(http, replicas[0])
    body = {"type": "prompt", "tokens": 600, "pace": 0.1, "stream": stream}
    request = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", int(routing.url.rsplit(":", 1)[1]))) as leaving:
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\n{SESSION}: {session}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(request)}\r\n\r\n"
        leaving.sendall(head.encode() + request)
        wait_until(lambda: replicas[0].seen()["prompts"] == 1)
    wait_until(lambda: replicas[0].seen()["prompts"] == 0, POLL_SECONDS)
    assert ask(http, session).json()["turn"] == 0


def test_a_client_that_leaves_while_it_waits_never_reaches_the_replica(
    routing: Routing, http: httpx.Client, replicas: list[Fake]
) -> None:
    session = open_at(http, replicas[0])
    replicas[0].tell_ping(status=503)
    routing.wait_state("a", "restarting")
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=routing.url, timeout=0.5) as leaving,
    ):
        ask(leaving, session)
    replicas[0].tell_ping(status=200)
    routing.wait_state("a", "ready")
    assert ask(http, session).json()["turn"] == 0
    # That somebody leaves is no alarm.
    assert not [line for line in routing.lines if "aborting Lua" in line]


def test_clients_that_leave_while_replicas_are_asked_keep_nobody_else_from_asking(
    routing: Routing, impatient_http: httpx.Client, http: httpx.Client, replicas: list[Fake]
) -> None:
    elsewhere = open_at(impatient_http, replicas[1])  # this router has never heard of it
    replicas[0].freeze()  # the questions go out, and its answer to them does not come
    with ExitStack() as leaving:
        for number in range(2 * MAX_FINDING):
            request = f"POST /invocations HTTP/1.1\r\nHost: x\r\n{SESSION}: left-{number}\r\n"
            address = ("127.0.0.1", int(routing.url.rsplit(":", 1)[1]))
            client = leaving.enter_context(socket.create_connection(address))
            client.sendall(request.encode() + b"Content-Length: 2\r\n\r\n{}")
        wait_until(lambda: routing.admin("show sess").count("proto=? ") >= MAX_FINDING)
    replicas[0].thaw()
    routing.wait_state("a", "ready")
    assert ask(http, elsewhere).json() == {"replica": "b", "turn": 0}


# --- the operator -----------------------------------------------------------------------------


def test_an_operator_drains_a_replica_its_sessions_stay_and_new_ones_go_elsewhere(
    http: httpx.Client, routing: Routing, replicas: list[Fake]
) -> None:
    session = open_at(http, replicas[0])
    routing.admin("set server replicas/a state drain")
    try:
        assert {open_session(http)[1] for _ in range(9)} == {"b", "c"}
        assert ask(http, session).json() == {"replica": "a", "turn": 0}
    finally:
        routing.admin("set server replicas/a state ready")
    assert open_at(http, replicas[0])


def test_a_replica_in_maintenance_gets_nothing_and_its_sessions_wait(
    http: httpx.Client, routing: Routing, replicas: list[Fake], aside: ThreadPoolExecutor
) -> None:
    session = open_at(http, replicas[0])
    routing.admin("set server replicas/a state maint")
    try:
        wait_until(lambda: {open_session(http)[1] for _ in range(4)} == {"b", "c"})
        waiting = ask_aside(aside, routing, session)
        assert not waiting.done()
    finally:
        routing.admin("set server replicas/a state ready")
    assert waiting.result(20).json() == {"replica": "a", "turn": 0}
