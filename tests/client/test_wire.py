from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_sessions.client import ImageNotReadable, wire
from vlm_sessions.client.wire import Request

PNG = b"\x89PNG some bytes"


def body_of(request: Request) -> Any:
    return json.loads(request.body)


def test_a_local_file_is_sent_as_base64_and_a_url_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    request = wire.open_session([path, str(path), PNG, "https://example.org/cat.png"], None)
    data = {"data": base64.b64encode(PNG).decode()}
    assert body_of(request) == {
        "type": "open_session",
        "images": [data, data, data, "https://example.org/cat.png"],
    }
    assert request.opens


def test_a_pil_image_is_sent_as_a_png_of_the_same_pixels() -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    sent = body_of(wire.open_session(picture, None))["images"][0]["data"]
    with Image.open(io.BytesIO(base64.b64decode(sent))) as received:
        assert received.format == "PNG"
        assert received.tobytes() == picture.tobytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageNotReadable, match=r"no\.png: No such file"):
        wire.open_session(tmp_path / "no.png", None)


def test_something_that_is_no_picture_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ImageNotReadable, match="int is not a picture"):
        wire.open_session([3], None)  # type: ignore[list-item]


def test_a_prompt_carries_its_sampling_and_nothing_that_was_not_asked_for() -> None:
    request = wire.prompt("s1", "why?", None, stream=True, temperature=0.5, stop="\n")
    assert body_of(request) == {
        "type": "prompt",
        "prompt": "why?",
        "images": [],
        "stream": True,
        "temperature": 0.5,
        "stop": ["\n"],
    }
    assert request.session_id == "s1"
    assert request.streams
    assert request.is_prompt


@pytest.mark.parametrize(
    ("header", "session_id"),
    [("ab-1; Expires=2030-01-01T00:00:00Z", "ab-1"), ("ab", "ab"), ("", None), (None, None)],
)
def test_the_id_is_read_from_a_header_without_its_lifetime(
    header: str | None, session_id: str | None
) -> None:
    assert wire.session_id_of_header(header) == session_id
