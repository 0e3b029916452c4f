"""A router before replicas that ask for keys: it has none, and passes on those of its clients."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.parts import SESSION, Fake, Routing, code_of, fakes, invoke, router
from tests.support.keys import bearing

ALICE, BOB, WRONG = "vlm-alice", "vlm-bob", "vlm-wrong"
HOLD_SECONDS = 30.0


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(2, tmp_path_factory.mktemp("state"), FAKE_KEYS=f"{ALICE},{BOB}") as started:
        yield started


@pytest.fixture(scope="module")
def routing(replicas: list[Fake], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    hold = f"--hold-seconds={HOLD_SECONDS}"
    with router(replicas, tmp_path_factory.mktemp("router"), hold) as running:
        yield running


def forgotten(replicas: list[Fake]) -> str:
    """A session of alice's that the router has not seen opened, as after its restart."""
    with httpx.Client(base_url=replicas[1].url, headers=bearing(ALICE)) as http:
        session: str = invoke(http, {"type": "open_session"}).json()["session_id"]
    return session


def is_in_the_table(routing: Routing, session: str) -> bool:
    return session in routing.admin(f"show table owners key {session}")


def test_a_key_reaches_the_replica_and_keeps_its_sessions_from_others(http: httpx.Client) -> None:
    opened = invoke(http, {"type": "open_session"}, **bearing(ALICE))
    session = opened.json()["session_id"]
    prompt = {"type": "prompt"}
    assert invoke(http, prompt, session, **bearing(ALICE)).status_code == 200
    assert invoke(http, prompt, session, **{"X-Api-Key": ALICE}).status_code == 200
    assert code_of(invoke(http, prompt, session, **bearing(BOB))) == (404, "session_not_found")
    for headers in ({}, bearing(WRONG)):
        assert code_of(invoke(http, prompt, session, **headers)) == (401, "unauthorized")
        assert code_of(invoke(http, {"type": "open_session"}, **headers))[0] == 401


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_session_that_the_router_has_forgotten_is_asked_for_with_its_clients_key(
    http: httpx.Client, replicas: list[Fake], header: str
) -> None:
    value = f"Bearer {ALICE}" if header == "Authorization" else ALICE
    session = forgotten(replicas)
    reply = http.post(
        "/invocations", json={"type": "prompt"}, headers={SESSION: session, header: value}
    )
    assert (reply.status_code, reply.json()["replica"]) == (200, replicas[1].name)


@pytest.mark.parametrize(
    "headers",
    [{}, bearing(WRONG), bearing(ALICE + "x" * 9000), {"X-Api-Key": ALICE + "x" * 9000}],
    ids=["none", "wrong", "long", "another long"],
)
def test_who_has_no_key_is_told_so_at_once_and_leaves_nothing_in_the_table(
    routing: Routing, http: httpx.Client, replicas: list[Fake], headers: dict[str, str]
) -> None:
    session = forgotten(replicas)
    begun = time.monotonic()
    reply = invoke(http, {"type": "prompt"}, session, **headers)
    assert code_of(reply) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert time.monotonic() - begun < HOLD_SECONDS / 2, "not held as if its owner might come back"
    assert not is_in_the_table(routing, session)
    assert invoke(http, {"type": "prompt"}, session, **bearing(ALICE)).status_code == 200
    assert is_in_the_table(routing, session)


def test_another_clients_forgotten_session_is_not_there(
    routing: Routing, http: httpx.Client, replicas: list[Fake]
) -> None:
    session = forgotten(replicas)
    reply = invoke(http, {"type": "prompt"}, session, **bearing(BOB))
    assert code_of(reply) == (404, "session_not_found")
    assert not is_in_the_table(routing, session)


def test_a_signature_for_aws_is_not_passed_on_and_a_key_beside_it_is(
    http: httpx.Client, replicas: list[Fake]
) -> None:
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}
    path = "/endpoints/any/invocations"
    assert http.post(path, json={"type": "open_session"}, headers=signed).status_code == 424
    keyed = signed | {"X-Api-Key": ALICE}
    assert http.post(path, json={"type": "open_session"}, headers=keyed).status_code == 200
    received = [each["headers"] for fake in replicas for each in fake.seen()["received"]]
    assert not [headers for headers in received if "AWS4" in headers.get("Authorization", "")]


def test_a_key_is_in_no_line_that_the_router_writes(routing: Routing) -> None:
    for key in (ALICE, BOB, WRONG):
        assert not [line for line in routing.lines if key in line]
