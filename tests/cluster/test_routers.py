"""Two routers that share their table: one dies, one is new, both are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest

from tests.cluster.parts import Fake, Routing, ask, code_of, fakes, invoke, open_session, router
from vlm_sessions.cluster.ports import Reservation


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(2, tmp_path_factory.mktemp("state")) as started:
        yield started


class Pair:
    """Routers ``one`` and ``two``, each a peer of the other."""

    def __init__(self, replicas: list[Fake], state_dir: Path) -> None:
        self._replicas = replicas
        self._state_dir = state_dir
        self._ports = {name: Reservation.make() for name in ("one", "two")}
        self._peers = {name: Reservation.make() for name in ("one", "two")}

    def start(self, name: str) -> AbstractContextManager[Routing]:
        (other,) = self._ports.keys() - {name}
        # They list the replicas in different orders: only names count.
        replicas = self._replicas if name == "one" else self._replicas[::-1]
        return router(
            replicas,
            self._state_dir,
            f"--name={name}",
            f"--listen-peer={self._peers[name].address}",
            f"--peer={other}={self._peers[other].address}",
            port=self._ports[name].port,
        )

    def release(self) -> None:
        for reservation in (*self._ports.values(), *self._peers.values()):
            reservation.release()


@pytest.fixture
def pair(replicas: list[Fake], tmp_path: Path) -> Iterator[Pair]:
    made = Pair(replicas, tmp_path)
    yield made
    made.release()


def client(routing: Routing) -> httpx.Client:
    return httpx.Client(base_url=routing.url, timeout=60)


def num_asked(replicas: list[Fake]) -> int:
    """Questions of routers whether a replica knows a session."""
    return sum(
        request["headers"]["Host"] == "replica"
        for fake in replicas
        for request in fake.seen()["received"]
    )


def test_sessions_survive_either_router_and_both(pair: Pair, replicas: list[Fake]) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(pair.start("one"))
        two = stack.enter_context(pair.start("two"))
        with client(one) as at_one, client(two) as at_two:
            # Opened at one, used at once at the other.
            sessions = dict(open_session(at_one) for _ in range(100))
            for session, owner in sessions.items():
                assert ask(at_two, session).json() == {"replica": owner, "turn": 0}
            closed, _ = open_session(at_one)
            invoke(at_one, {"type": "close_session"}, closed)
            assert code_of(ask(at_two, closed)) == (410, "session_closed")
        one.process.kill()
        one.process.wait()
        with client(two) as at_two:
            for session, owner in sessions.items():
                assert ask(at_two, session).json() == {"replica": owner, "turn": 1}
        asked = num_asked(replicas)
        with pair.start("one") as again, client(again) as at_one:
            for session, owner in sessions.items():
                assert ask(at_one, session).json() == {"replica": owner, "turn": 2}
            # It has the other's table, but for those that were asked for before it came.
            assert num_asked(replicas) - asked < len(sessions)


def test_routers_that_were_all_restarted_learn_from_the_replicas(
    pair: Pair, replicas: list[Fake]
) -> None:
    with pair.start("one") as before, client(before) as http:
        sessions = dict(open_session(http) for _ in range(20))
    with pair.start("one") as after, client(after) as http:
        asked = num_asked(replicas)
        for turn in range(2):
            for session, owner in sessions.items():
                assert ask(http, session).json() == {"replica": owner, "turn": turn}
        # Replicas were asked about each session until one knew it, and never again.
        assert len(sessions) <= num_asked(replicas) - asked <= len(sessions) * len(replicas)


def test_a_session_that_was_closed_before_all_routers_restarted_is_still_410(pair: Pair) -> None:
    with pair.start("one") as before, client(before) as http:
        session, _ = open_session(http)
        invoke(http, {"type": "close_session"}, session)
    with pair.start("one") as after, client(after) as http:
        assert code_of(ask(http, session)) == (410, "session_closed")
