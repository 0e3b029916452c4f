"""A client of SageMaker's streaming operation, against the product itself."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from botocore.eventstream import EventStreamBuffer

from tests.torchserve.server import Server
from vlm_sessions.client.sse import SseParser
from vlm_sessions.protocol.eventstream import CONTENT_TYPE

PICTURE = Path(__file__).parents[2] / "demo" / "pictures" / "shapes.png"
SESSION = "X-Amzn-SageMaker-Session-Id"


def test_a_streamed_answer_reaches_who_reads_aws_event_streams(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        opened = http.post(
            "/invocations", content=PICTURE.read_bytes(), headers={"Content-Type": "image/png"}
        )
        reply = http.post(
            "/invocations",
            json={"type": "prompt", "prompt": "What is in the top left?", "stream": True},
            headers={SESSION: opened.json()["session_id"], "Accept": CONTENT_TYPE},
        )
    buffer = EventStreamBuffer()
    buffer.add_data(reply.content)
    events = [event for message in buffer for event in SseParser().feed(message.payload)]

    assert reply.headers["content-type"] == CONTENT_TYPE
    assert events[-1].event == "done"
    assert json.loads(events[-1].data)["text"] == "a red circle"


def test_what_is_refused_keeps_its_status(server: Server) -> None:
    reply = httpx.post(
        server.url + "/invocations",
        json={"type": "prompt", "prompt": "What is in the top left?", "stream": True},
        headers={SESSION: "unknown", "Accept": CONTENT_TYPE},
    )

    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "session_not_found"
