"""Where requests without a session go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cluster.parts import (
    Fake,
    Routing,
    ask,
    invoke,
    open_session,
    wait_until,
)


def open_directly(replica: Fake, count: int) -> None:
    for _ in range(count):
        httpx.post(replica.url + "/invocations", json={"type": "open_session"})


def sessions_told(http: httpx.Client) -> int:
    return int(http.get("/ping").json()["open_sessions"])


@pytest.mark.parametrize(
    "opening",
    [
        {"json": {"type": "open_session"}},
        {"json": {"type": "start_session", "path": "x"}},
        {"json": {"requestType": "NEW_SESSION"}},
        {"content": b"\x89PNG", "headers": {"Content-Type": "image/png"}},
        {
            "json": {"images": ["x" * 100_000], "type": "open_session"},
            "headers": {"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"},
        },
    ],
)
def test_a_new_session_goes_to_the_replica_with_the_fewest_however_it_is_opened(
    http: httpx.Client, replicas: list[Fake], opening: dict[str, object]
) -> None:
    counts = {fake.name: len(fake.seen()["sessions"]) for fake in replicas}
    wanted = max(counts.values()) + 3
    for fake in replicas:
        open_directly(fake, wanted - counts[fake.name] - (3 if fake.name == "b" else 0))
    wait_until(lambda: sessions_told(http) == 3 * wanted - 3)
    for _ in range(3):  # also before the next poll tells of the first
        assert http.post("/invocations", **opening).json()["replica"] == "b"  # type: ignore[arg-type]


def test_stateless_calls_go_to_the_least_busy(
    routing: Routing, http: httpx.Client, replicas: list[Fake]
) -> None:
    session, busy = open_session(http)
    with ThreadPoolExecutor(8) as aside:

        def occupy() -> None:
            with httpx.Client(base_url=routing.url, timeout=60) as client:
                ask(client, session, tokens=40, pace=0.1)

        running = [aside.submit(occupy) for _ in range(8)]
        wait_until(lambda: http.get("/ping").json()["prompts"] == 8)
        answers = [invoke(http, {"type": "generate"}).json() for _ in range(4)]
        answers += [http.post("/v1/chat/completions", json={}).json() for _ in range(4)]
        assert busy not in {answer["replica"] for answer in answers}
        for each in running:
            each.result()


def test_stateless_calls_are_shared_though_the_last_poll_told_the_same_of_all(
    http: httpx.Client,
) -> None:
    models = [http.get("/v1/models").json()["data"][0]["id"] for _ in range(30)]
    assert set(models) == {"a", "b", "c"}
