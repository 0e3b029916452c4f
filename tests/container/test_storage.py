"""A full disk under the state directory: said clearly, nothing lost, over once there is room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.container.container import Container, serving
from tests.container.image import Image
from tests.container.talk import QUESTION, Chat, open_session, post

_STATE = "/var/lib/vlm-sessions"
_FILL = f"dd if=/dev/zero of={_STATE}/filler bs=4096 2>/dev/null; true"


@pytest.fixture(scope="module")
def cramped(image: Image) -> Iterator[Container]:
    """A container whose state directory has little room."""
    small = f"{_STATE}:size=6m,uid=10001,gid=0,mode=0770"
    with serving(image, "--tmpfs", small) as container:
        yield container


def test_a_full_disk_is_told_with_507_loses_nothing_and_is_over_once_there_is_room(
    cramped: Container,
) -> None:
    chat = Chat(cramped.url)
    chat.ask(QUESTION)
    cramped.execute("sh", "-c", _FILL)
    # A little may still fit into what SQLite holds already.
    replies = [open_session(cramped.url) for _ in range(200)]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused, "the disk was not full"
    for reply in refused:
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "insufficient_storage")
    assert chat.prompts() == [QUESTION]
    prompted = post(cramped.url, {"type": "prompt", "prompt": "How big is it?"}, chat.id)
    assert (prompted.status_code, prompted.json()["error"]["code"]) == (507, "insufficient_storage")
    assert chat.prompts() == [QUESTION], "an answer that was not kept has not been"

    cramped.execute("rm", f"{_STATE}/filler")
    assert chat.ask("What colour is it?") == "red"
    assert chat.prompts() == [QUESTION, "What colour is it?"]
    kept = [reply for reply in replies if reply.status_code == 200]
    for reply in kept:
        described = post(cramped.url, {"type": "describe_session"}, reply.json()["session_id"])
        assert described.status_code == 200
