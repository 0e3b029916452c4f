"""A service that hangs, or cannot be started again, never stays up as if nothing were wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.torchserve.server import RESTART_SECONDS, Server, serving
from vlm_sessions.serve.patience import Patience
from vlm_sessions.serve.watchdog import wait_for_trouble

SHORT = {"ping_interval": 0.5, "ping_timeout": 1.0}
"""Then a hang is noticed in about five seconds, in place of twenty."""
AT_ONCE = Patience(ping_interval=0.0)


class Pings:
    """Answers in order, the last one for ever; tells how many were asked for."""

    def __init__(self, *statuses: int | None) -> None:
        self._statuses = list(statuses)
        self.num_asked = 0

    async def __call__(self, seconds: float) -> int | None:
        self.num_asked += 1
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]


async def test_three_questions_in_a_row_without_an_answer_are_trouble() -> None:
    pings = Pings(200, None, None, 200, None, None, 503, None)
    assert "did not answer 3 times" in await wait_for_trouble(pings, AT_ONCE)
    assert pings.num_asked == 10, "two misses in a row are none"


async def test_an_answer_that_it_is_not_ready_is_an_answer_until_that_takes_for_ever() -> None:
    pings = Pings(200, *[503] * 50, 200, 503)
    patience = Patience(ping_interval=0.001, max_unready=0.2)
    assert "has not been ready for 0.2 s" in await wait_for_trouble(pings, patience)
    assert pings.num_asked > 53, "being ready again begins the count anew"


@pytest.fixture(scope="module")
def watched(stub_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(stub_store, tmp_path_factory.mktemp("state"), patience=SHORT) as watched:
        yield watched


PARTS = {"worker": Server.worker, "java": Server.java, "haproxy": Server.haproxy}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_hangs_is_replaced(watched: Server, part: str) -> None:
    hung = PARTS[part](watched)
    hung.suspend()
    who = "HAProxy" if part == "haproxy" else "TorchServe or its worker"
    watched.wait_for_line(f"{who} did not answer 3 times in a row; starting it again", 30)
    watched.wait_serving(RESTART_SECONDS)
    assert not hung.is_running()


def test_the_products_own_patience_replaces_a_hung_part_within_30_s() -> None:
    own = Patience()
    assert own.max_misses * (own.ping_interval + own.ping_timeout) <= 30


def test_a_service_that_cannot_be_started_again_ends_with_exit_code_1(
    stub_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(stub_store, store)
    patience = {"max_failed_starts": 2}
    with serving(store, tmp_path / "state", patience=patience) as server:
        (store / "llava" / "stub_handler.py").write_text("raise ImportError('lost')\n")
        server.worker().kill()
        assert server.process.wait(60) == 1
        server.wait_for_line("TorchServe could not be started 2 times in a row. See", 5)


def test_an_orphan_below_the_supervisor_is_adopted_and_reaped(watched: Server) -> None:
    orphan = httpx.get(watched.url + "/v1/orphan", headers={"x-delay": "1"}).json()["pid"]
    assert psutil.Process(orphan).ppid() == watched.process.pid
    deadline = time.monotonic() + 20
    while psutil.pid_exists(orphan):  # a zombie exists
        assert time.monotonic() < deadline, psutil.Process(orphan).status()
        time.sleep(0.05)
