"""SIGTERM under load, as an update sends it, and the same container started again."""

from __future__ import annotations

import time

from tests.container.container import SMALL, Container, serving, starting
from tests.container.image import Image
from tests.container.talk import QUESTION, Chat, Listener, open_session, post

_KILLED_AFTER_SECONDS = 30.0
"""By SageMaker, after its SIGTERM."""


def test_running_answers_finish_new_ones_are_refused_and_the_sessions_are_kept(
    image: Image,
) -> None:
    with serving(image) as container:
        chats = [Chat(container.url) for _ in range(4)]
        chats[0].ask(QUESTION)
        listeners = [Listener(chat.babble(1000)) for chat in chats]
        begun = time.monotonic()
        container.signal("TERM")
        container.wait(lambda: ping_fails(container), 10)
        refused = [post(container.url, {"type": "prompt", "prompt": QUESTION}, chats[0].id)]
        refused.append(open_session(container.url))
        for reply in refused:
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
            assert int(reply.headers["Retry-After"]) >= 1
        ended = [listener.finish() for listener in listeners]
        assert [name for name, _ in ended] == ["done"] * len(chats)
        assert {data["usage"]["completion_tokens"] for _, data in ended} == {1000}
        assert container.wait_ended() == 0
        assert time.monotonic() - begun < _KILLED_AFTER_SECONDS

        container.start()
        container.wait_serving()
        assert chats[0].prompts() == [QUESTION, "Talk."]
        assert chats[1].ask(QUESTION)


def ping_fails(container: Container) -> bool:
    ping = container.ping()
    return ping is not None and ping.status_code == 503


def test_answers_that_take_too_long_are_ended_with_an_error_and_leave_no_trace(
    image: Image,
) -> None:
    with serving(image, environ={"VLM_DRAIN_SECONDS": "1"}) as container:
        chat = Chat(container.url)
        endless = Listener(chat.babble(3500))
        begun = time.monotonic()
        container.signal("TERM")
        name, data = endless.finish()
        assert (name, data["error"]["code"]) == ("error", "draining")
        assert container.wait_ended() == 0
        assert time.monotonic() - begun < _KILLED_AFTER_SECONDS

        container.start()
        container.wait_serving()
        assert chat.prompts() == []


def test_a_stop_while_it_starts_ends_it_at_once_and_in_order(image: Image) -> None:
    with starting(image, environ=SMALL) as container:
        container.wait(lambda: bool(container.running("ModelServer")), 60)
        container.signal("TERM")
        assert container.wait_ended(_KILLED_AFTER_SECONDS) == 0
