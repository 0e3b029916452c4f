"""SageMaker's runtime path, called by boto3 as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from tests.cluster.parts import Fake, Routing, code_of, fakes, open_session, router

ENDPOINT = "an-endpoint"


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fake]]:
    with fakes(2, tmp_path_factory.mktemp("state")) as started:
        yield started


@pytest.fixture(scope="module")
def routing(replicas: list[Fake], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routing]:
    with router(replicas, tmp_path_factory.mktemp("router"), "--hold-seconds=1") as running:
        yield running


@pytest.fixture(scope="module")
def runtime(routing: Routing) -> Any:
    """boto3's client, with nothing but another address."""
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=routing.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )


def invoke(runtime: Any, body: dict[str, Any], session: str | None = None, **more: str) -> Any:
    arguments = {"EndpointName": ENDPOINT, "ContentType": "application/json", **more}
    if session is not None:
        arguments["SessionId"] = session
    return runtime.invoke_endpoint(Body=json.dumps(body), **arguments)


def refused(runtime: Any, body: dict[str, Any], session: str | None = None) -> Any:
    """What ModelError says."""
    with pytest.raises(runtime.exceptions.ModelError) as error:
        invoke(runtime, body, session)
    return error.value.response


def test_boto3_opens_a_session_asks_in_it_and_closes_it(runtime: Any) -> None:
    opened = invoke(runtime, {"requestType": "NEW_SESSION"}, "NEW_SESSION")
    session = opened["NewSessionId"].partition(";")[0]
    told = json.loads(opened["Body"].read())
    assert session == told["session_id"]
    for turn in range(3):
        answer = json.loads(invoke(runtime, {"type": "prompt"}, session)["Body"].read())
        assert answer == {"replica": told["replica"], "turn": turn}
    closed = invoke(runtime, {"type": "close_session"}, session)
    assert closed["ClosedSessionId"] == session
    assert closed["ContentType"].startswith("application/json")


def test_a_containers_error_is_a_model_error_with_its_status_and_body(runtime: Any) -> None:
    opened = invoke(runtime, {"type": "open_session"}, "NEW_SESSION")
    session = opened["NewSessionId"].partition(";")[0]
    invoke(runtime, {"type": "close_session"}, session)
    error = refused(runtime, {"type": "prompt"}, session)
    assert error["Error"]["Code"] == "ModelError"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["OriginalStatusCode"] == 410
    assert json.loads(error["OriginalMessage"])["error"]["code"] == "session_closed"
    assert "The session was closed." in error["Error"]["Message"]
    assert error["LogStreamArn"] == ""
    assert error["ResponseMetadata"]["HTTPHeaders"]["x-request-id"]


def test_a_long_error_is_cut_at_2048_characters_and_stays_text(runtime: Any) -> None:
    with pytest.raises(runtime.exceptions.ModelError) as error:
        runtime.invoke_endpoint(EndpointName=ENDPOINT, Body=('é"\\\n\x01😀' * 700).encode())
    original = error.value.response["OriginalMessage"]
    assert error.value.response["OriginalStatusCode"] == 400
    assert len(original) == 2048
    assert original.startswith('{"error": {"code": "invalid_json"')


@pytest.mark.parametrize(
    ("session", "status", "code"),
    [
        ("ts-seq-unknown", 404, "session_not_found"),
        ("a" * 100, 400, "malformed_session_id"),
    ],
)
def test_the_routers_own_errors_are_model_errors_as_well(
    runtime: Any, session: str, status: int, code: str
) -> None:
    error = refused(runtime, {"type": "prompt"}, session)
    assert error["OriginalStatusCode"] == status
    assert json.loads(error["OriginalMessage"])["error"]["code"] == code


def test_a_lost_session_is_a_model_error_too(
    runtime: Any, routing: Routing, replicas: list[Fake]
) -> None:
    opened = json.loads(invoke(runtime, {"type": "open_session"}, "NEW_SESSION")["Body"].read())
    (owner,) = [fake for fake in replicas if fake.name == opened["replica"]]
    owner.kill()
    try:
        for _ in range(2):  # the first before the router can have noticed
            error = refused(runtime, {"type": "prompt"}, opened["session_id"])
            assert error["OriginalStatusCode"] == 410
            assert json.loads(error["OriginalMessage"])["error"]["code"] == "session_lost"
    finally:
        owner.restart()
        owner.wait_answering()
        routing.wait_state(owner.name, "ready")


def test_a_streaming_call_asks_for_aws_frames_and_an_error_of_it_is_a_model_error(
    runtime: Any, replicas: list[Fake]
) -> None:
    # The fake does not frame: what the client would read is the container's part, tested there.
    with pytest.raises(runtime.exceptions.ModelError) as error:
        runtime.invoke_endpoint_with_response_stream(
            EndpointName=ENDPOINT, Body=b"{", SessionId="", CustomAttributes="trace=1"
        )
    assert error.value.response["OriginalStatusCode"] == 400
    requests = [request for fake in replicas for request in fake.seen()["received"]]
    framed = [
        {name.lower(): value for name, value in request["headers"].items()}
        for request in requests
        if request["headers"].get("Accept") == "application/vnd.amazon.eventstream"
    ]
    assert framed[-1]["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert requests[0]["path"] == "/invocations"
    # The caller's signature is for AWS and goes no further.
    assert not {"authorization", "x-amz-date"} & framed[-1].keys()


def test_a_session_belongs_to_the_same_replica_on_both_roads(
    runtime: Any, routing: Routing
) -> None:
    with httpx.Client(base_url=routing.url) as http:
        session, owner = open_session(http)
    answer = json.loads(invoke(runtime, {"type": "prompt"}, session)["Body"].read())
    assert answer == {"replica": owner, "turn": 0}


def test_only_post_is_known_at_an_endpoint(routing: Routing) -> None:
    url = f"{routing.url}/endpoints/{ENDPOINT}/invocations"
    reply = httpx.get(url)
    assert reply.status_code == 424
    assert reply.json()["OriginalStatusCode"] == 405
    assert code_of(httpx.post(f"{routing.url}/endpoints/{ENDPOINT}")) == (404, "not_found")
