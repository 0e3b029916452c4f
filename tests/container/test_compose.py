"""deploy/compose, brought up with the image: what deploy/README.md says of it."""

from __future__ import annotations

import json
from copy import copy

import boto3
import httpx
import pytest
import yaml
from botocore.config import Config
from prometheus_client.parser import text_string_to_metric_families

from tests.container.compose import DIRECTORY, REPLICAS, ROUTERS, Compose, compose
from tests.container.container import Container
from tests.container.engine import Engine
from tests.container.talk import ANSWER, PICTURE, QUESTION, Chat

NUM_SESSIONS = 6


def through(router: Container, chat: Chat) -> Chat:
    """The same session by another way."""
    other = copy(chat)
    other.url = router.url
    return other


def metric_names(url: str) -> set[str]:
    text = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text
    return {family.name for family in text_string_to_metric_families(text)}


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


def test_every_replica_and_every_router_has_metrics_for_prometheus(project: Compose) -> None:
    for replica in REPLICAS:
        assert "vlm_open_sessions" in metric_names(project.container(replica).url)
    for router in ROUTERS:
        assert "haproxy_backend_status" in metric_names(project.container(router).url)


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
