"""``vlm-sessions cluster`` as users start it: two real services with the built-in model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import boto3
import httpx
import psutil
import pytest

from tests.cluster.parts import Routing, command
from tests.torchserve.server import free_port
from vlm_sessions.client import Client, ClientError
from vlm_sessions.client.retry import RetryPolicy
from vlm_sessions.client.sync import Session
from vlm_sessions.endpoint.openapi import openapi_document
from vlm_sessions.serve.packaging import ensure_packed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PICTURE = "demo/pictures/shapes.png"
READY_SECONDS = 180.0
NUM_SESSIONS = 4


@pytest.fixture(scope="module")
def routing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    store, state_dir = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("state")
    port = free_port()
    ensure_packed(store)
    environ = {
        "VLM_STATE_DIR": str(state_dir),
        "VLM_MODEL_STORE": str(store),
        "VLM_THREADS": "1",
        "VLM_LOG_LEVEL": "warning",
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["-m", "vlm_sessions.cli", "cluster", "--replicas=2", f"--port={port}"]
    arguments += ["--hold-seconds=100"]  # the machines that test are slow, and do other things
    with command(arguments, port, state_dir, environ) as running:
        running.wait_for_line("Ready at", READY_SECONDS)
        yield running


@pytest.fixture(scope="module")
def client(routing: Routing) -> Iterator[Client]:
    with Client(routing.url, timeout=120, retry=RetryPolicy(num_retries=0)) as made:
        yield made


@pytest.fixture(scope="module")
def sessions(client: Client) -> list[Session]:
    """Each with one question behind it."""
    opened = [client.open(PICTURE) for _ in range(NUM_SESSIONS)]
    for session in opened:
        assert session.ask("What is in the top left?", max_new_tokens=16).text == "a red circle"
    return opened


def serves(routing: Routing) -> list[psutil.Process]:
    """The replicas' own processes, not those below them."""
    children = psutil.Process(routing.process.pid).children()
    return [each for each in children if "serve" in each.cmdline()]


def test_sessions_on_both_replicas_keep_their_context(
    routing: Routing, sessions: list[Session]
) -> None:
    assert set(routing.states().items()) == {("replica-1", "ready"), ("replica-2", "ready")}
    for session in sessions:
        answer = session.ask("How big is it?", max_new_tokens=16)
        assert answer.text == "large"
        assert answer.usage.cached_tokens > 0


def test_boto3_talks_to_the_cluster_as_to_sagemaker(routing: Routing) -> None:
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=routing.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    client = Client(sagemaker_endpoint="any", sagemaker_runtime=runtime, timeout=120)
    with client, client.open(PICTURE) as session:
        assert session.ask("What is in the top left?", max_new_tokens=16).text == "a red circle"
        assert "".join(session.stream("How big is it?", max_new_tokens=16)) == "large"
        with pytest.raises(ClientError) as refused:
            session.ask("", max_new_tokens=16)
    assert refused.value.status == 400


def test_a_rolling_update_loses_no_session_and_fails_no_request(
    routing: Routing, client: Client, sessions: list[Session]
) -> None:
    before = {process.pid for process in serves(routing)}
    is_over = threading.Event()
    answers: list[str] = []
    failures: list[Exception] = []

    def talk() -> None:
        """Open, ask, ask again, close, from the start of the update to its end."""
        while not is_over.is_set():
            try:
                with client.open(PICTURE) as session:
                    answers.append(session.ask("What is in the top left?", max_new_tokens=16).text)
                    answers.append("".join(session.stream("How big is it?", max_new_tokens=16)))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it counts
                failures.append(exc)

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        routing.process.send_signal(signal.SIGHUP)
        for number in (1, 2):
            routing.wait_for_line(f"Updating replica-{number}", READY_SECONDS)
            for session in sessions:  # also those of the one that is just being replaced
                assert session.ask("How big is it?", max_new_tokens=16).text == "large"
        routing.wait_for_line("All replicas are updated.", READY_SECONDS)
    finally:
        is_over.set()
        talking.join(120)
    assert failures == []
    assert set(answers) == {"a red circle", "large"}
    assert not before & {process.pid for process in serves(routing)}


def test_a_replica_killed_outright_comes_back_on_its_state(
    routing: Routing, sessions: list[Session]
) -> None:
    killed = serves(routing)[0]
    killed.kill()
    routing.wait_for_line("starting it again", 20)
    name = next(line for line in routing.lines[::-1] if "starting it again" in line).split()[0]
    routing.wait_for_line(f"Replica {name}", READY_SECONDS)  # … is lost
    routing.wait_for_line(f"Replica {name}", READY_SECONDS)  # … is ready
    assert set(routing.states().values()) == {"ready"}
    for session in sessions:
        assert session.ask("How big is it?", max_new_tokens=16).text == "large"


def test_the_document_of_the_service_is_published_through_the_router_too(routing: Routing) -> None:
    assert httpx.get(routing.url + "/openapi.json").json() == openapi_document()
