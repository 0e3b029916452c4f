"""deploy/compose, brought up with the image: what deploy/README.md says of it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from copy import copy

import boto3
import httpx
import pytest
import yaml
from botocore.config import Config

from tests.container.compose import DIRECTORY, MONITOR, REPLICAS, ROUTERS, Compose, compose
from tests.container.container import Container
from tests.container.engine import Engine
from tests.container.image import Image
from tests.container.leaving import PROMPT_SECONDS, leave_and_ask_again
from tests.container.monitoring import IMAGE_NAME, Prometheus, build_prometheus
from tests.container.talk import ANSWER, PICTURE, QUESTION, Chat, post

METRICS_PAGE = DIRECTORY.parents[1] / "docs" / "metrics.md"
NUM_SESSIONS = 6


def through(router: Container, chat: Chat) -> Chat:
    """The same session by another way."""
    other = copy(chat)
    other.url = router.url
    return other


@pytest.fixture(scope="module")
def prometheus(
    image: Image, project: Compose, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """The project's own, started as deploy/README.md says."""
    build_prometheus(image.engine, image.base, tmp_path_factory.mktemp("prometheus"))
    project.run("--profile", "metrics", "up", "--detach")
    yield Prometheus(f"http://127.0.0.1:{project.ports[MONITOR]}")
    project.run("--profile", "metrics", "rm", "--stop", "--force", MONITOR)
    image.engine.run("rmi", IMAGE_NAME)


def test_a_session_is_reached_through_either_router(project: Compose) -> None:
    one, other = (project.container(router) for router in ROUTERS)

    chats = [Chat(one.url) for _ in range(NUM_SESSIONS)]

    assert {chat.ask() for chat in chats} == {ANSWER}
    assert {through(other, chat).ask("How big is it?") for chat in chats} == {"large"}


def test_new_sessions_are_shared_out_among_the_replicas(project: Compose) -> None:
    router = project.container("router-a")

    for _ in range(NUM_SESSIONS):
        Chat(router.url)

    for replica in REPLICAS:
        ping = httpx.get(f"{project.container(replica).url}/ping", timeout=10).json()
        assert ping["open_sessions"] > 0, replica


@pytest.mark.timeout(600, func_only=True)
def test_boto3_opens_prompts_streams_and_closes_through_a_router(project: Compose) -> None:
    sagemaker = boto3.client(
        "sagemaker-runtime",
        endpoint_url=project.container("router-a").url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}),
    )
    picture = {"ContentType": "image/png", "Body": PICTURE.read_bytes()}
    opened = sagemaker.invoke_endpoint(EndpointName="any", SessionId="NEW_SESSION", **picture)
    session = opened["NewSessionId"].partition(";")[0]
    call = {"EndpointName": "any", "SessionId": session, "ContentType": "application/json"}
    prompt = {"type": "prompt", "prompt": QUESTION, "max_new_tokens": 16}
    stream = {**prompt, "prompt": "How big is it?", "stream": True}

    answered = sagemaker.invoke_endpoint(**call, Body=json.dumps(prompt))
    streamed = sagemaker.invoke_endpoint_with_response_stream(**call, Body=json.dumps(stream))
    events = b"".join(event["PayloadPart"]["Bytes"] for event in streamed["Body"])
    closed = sagemaker.invoke_endpoint(**call, Body='{"type":"close_session"}')
    with pytest.raises(sagemaker.exceptions.ModelError) as refused:
        sagemaker.invoke_endpoint(**call, Body=json.dumps(prompt))

    assert json.load(answered["Body"])["text"] == ANSWER
    assert events.startswith(b"event: token")
    assert b'"text":"large","finish_reason"' in events
    assert closed["ClosedSessionId"] == session
    assert refused.value.response["OriginalStatusCode"] == 410
    assert "session_closed" in refused.value.response["OriginalMessage"]


def test_a_client_that_leaves_a_router_frees_its_session_for_the_next_prompt_at_once(
    project: Compose,
) -> None:
    router = project.container("router-a")
    replicas = [project.container(replica).url for replica in REPLICAS]

    took = leave_and_ask_again(
        router.url, lambda: socket.create_connection(("127.0.0.1", router.port)), replicas
    )

    assert max(took) < PROMPT_SECONDS


def test_all_are_updated_one_after_the_other_and_sessions_go_on(project: Compose) -> None:
    chats = [Chat(project.container("router-a").url) for _ in range(NUM_SESSIONS)]
    assert {chat.ask() for chat in chats} == {ANSWER}
    before = {service: project.container(service).identity for service in (*REPLICAS, *ROUTERS)}

    for service in before:
        project.replace(service)

    assert all(project.container(service).identity != old for service, old in before.items())
    for router in ROUTERS:
        container = project.container(router)
        assert {through(container, chat).ask("How big is it?") for chat in chats} == {"large"}


def test_prometheus_finds_every_replica_and_every_router_up(
    project: Compose, prometheus: Prometheus
) -> None:
    jobs = {"vlm-sessions": REPLICAS, "vlm-sessions-router": ROUTERS}
    targets = {
        (job, f"127.0.0.1:{project.ports[name]}"): "up"
        for job, names in jobs.items()
        for name in names
    }

    prometheus.wait(lambda: prometheus.targets() == targets)

    assert prometheus.total('haproxy_server_status{proxy="replicas",state="UP"}') == 4


def test_prometheus_counts_what_was_done(project: Compose, prometheus: Prometheus) -> None:
    done = {
        'vlm_requests_total{route="invocations",operation="open_session",status="200"}': 2,
        'vlm_requests_total{route="invocations",operation="prompt",status="200"}': 6,
        'vlm_requests_total{route="invocations",operation="none",status="400"}': 1,
        'vlm_errors_total{code="invalid_field"}': 1,
        'vlm_time_to_first_token_seconds_count{turn="first"}': 2,
        'vlm_time_to_first_token_seconds_count{turn="follow_up",cached="true"}': 4,
        "vlm_open_sessions": 2,
    }
    prometheus.wait(lambda: "up" in prometheus.targets().values())
    before = {expression: prometheus.total(expression) for expression in done}

    chats = [Chat(project.container(router).url) for router in ROUTERS]
    for chat in chats * 3:
        chat.ask()
    post(chats[0].url, {"type": "prompt", "prompt": ""}, chats[0].id)

    prometheus.wait(lambda: done == {name: prometheus.total(name) - before[name] for name in done})
    documented = re.findall(r"^\| `(vlm_\w+)` \| (\w+) ", METRICS_PAGE.read_text(), re.MULTILINE)
    names = {name + "_bucket" * (kind == "histogram") for name, kind in documented}
    assert names
    assert names - prometheus.metric_names("vlm-sessions") == set()


@pytest.mark.parametrize("service", [*REPLICAS, *ROUTERS])
def test_every_container_is_locked_down_and_given_time_to_drain(
    project: Compose, service: str
) -> None:
    found = project.container(service).inspect()

    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert found["Config"]["User"] == "10001"
    assert found["Config"]["StopTimeout"] == 35


def test_only_replicas_keep_anything(project: Compose) -> None:
    volumes = {
        service: [
            mount["Name"]
            for mount in project.container(service).inspect()["Mounts"]
            if mount["Type"] == "volume"
        ]
        for service in (*REPLICAS, *ROUTERS)
    }

    assert [name.rpartition("_")[2] for name in volumes["replica-1"]] == ["replica-1"]
    assert [name.rpartition("_")[2] for name in volumes["replica-2"]] == ["replica-2"]
    assert volumes["router-a"] == volumes["router-b"] == []


def test_each_replica_may_have_a_gpu_of_its_own(engine: Engine) -> None:
    files = [f"--file={DIRECTORY / name}" for name in ("compose.yaml", "gpu.yaml")]

    services = yaml.safe_load(compose(engine, *files, "config"))["services"]

    devices = [
        device["device_ids"]
        for replica in REPLICAS
        for device in services[replica]["deploy"]["resources"]["reservations"]["devices"]
    ]
    assert devices == [["0"], ["1"]]
    assert services["replica-1"]["environment"]["VLM_DRAIN_NOTICE_SECONDS"] == "3"
