"""Nothing that a client sends to the edge reaches TorchServe's own APIs behind it."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.torchserve.server import Server
from tests.torchserve.test_hostile import send

PATHS = [
    *("/models", "/models/llava", "/models/llava/1.0", "/models?url=http://x/evil.mar", "/MODELS"),
    *("/predictions/llava", "/predictions/llava/1.0/ping", "/explanations/llava", "/wfpredict/x"),
    *("/workflows", "/api-description", "/v2/health/ready", "/", "*", "/metrics/x", "/ping/x"),
    *("//models", "/./models", "/v1", "/v1/", "/v1//models", "/v1/../models", "/v1/models/llava"),
    *("/v1/../../models/llava", "/v1/../../../models/llava", "/v1/./../../../../models"),
    *("/v1/..;/models", "/v1/;/../models", "/v1/..\\models", "/v1\\..\\models", "/v1/models/.."),
    *("/invocations/../models", "/ping/../models", "/metrics/../models", "/invocations/"),
    *("/invocations;/../models", "/invocations/predictions/llava", "http://x/models"),
    *("http://x/v1/../models", "/v1/%2e%2e/models", "/%6dodels", "/v1/..%2f..%2fmodels"),
]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_reaches_torchserves_models_or_predictions(server: Server, method: str) -> None:
    told: dict[str, list[int]] = {}
    for path in PATHS:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n"
        replies = send(server, f"{head}\r\n{{}}".encode())
        told[path] = replies.statuses
        assert b'"error"' in replies.raw or replies.statuses == [400], path
        assert not re.search(rb"modelName|modelUrl|ModelNotFound|pytorch|\"paths\"", replies.raw), (
            path
        )
    refusals = {(404,), (405,), (400,)}
    assert {path: s for path, s in told.items() if tuple(s) not in refusals} == {}
    assert httpx.get(server.url + "/ping").status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_no_method_of_the_management_api_is_spoken(server: Server, method: str) -> None:
    for path in ("/models/llava", "/v1/models/llava", "/invocations"):
        assert httpx.request(method, server.url + path).status_code in (404, 405)


def test_no_header_of_a_client_passes_for_the_edges_or_torchserves_own(server: Server) -> None:
    forged = {
        "X-Edge-Path": "/ping",
        "X-Edge-Method": "GET",
        "X-Edge-Version": "1.0",
        "X-Edge-Content-Type": "image/png",
        "url_path": "ping",
        "explain": "true",
        "ts_stream_next": "true",
        "ts_request_sequence_id": "x",
        "X-Vlm-Sessions": "1",
        "X-Request-Id": "mine",
    }
    reply = httpx.post(server.url + "/invocations", json={"type": "dance"}, headers=forged)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unknown_type")
    assert reply.headers["x-request-id"] != "mine"


@pytest.mark.parametrize(
    "name", ["../../models/llava", "llava/1.0/../../x", "/etc/passwd", "\r\nX: y"]
)
def test_the_name_of_a_model_is_a_word_and_no_way_to_one(server: Server, name: str) -> None:
    reply = httpx.post(
        server.url + "/v1/chat/completions",
        json={"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
        timeout=60,
    )
    assert reply.status_code == 200
    assert reply.json()["model"] == "vlm-sessions/shapes", (
        "the one that is served, whatever is named"
    )
    assert "x" not in reply.headers
