"""Whatever dies inside is replaced, or the container ends: never one that only answers /ping."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.container.container import RESTART_SECONDS, Container, serving
from tests.container.image import Image
from tests.container.talk import QUESTION, Chat

_HEALTH = (
    *("--health-interval", "1s", "--health-timeout", "2s", "--health-retries", "2"),
    *("--health-start-period", "0s"),
)


@pytest.fixture(scope="module")
def broken(image: Image) -> Iterator[Container]:
    """A container that each test leaves serving."""
    with serving(image, *_HEALTH) as container:
        yield container


@pytest.mark.parametrize(
    "part",
    [
        "model_service_worker.py",
        "org.pytorch.serve.ModelServer",
        "haproxy",
        "vlm_sessions.build",
    ],
    ids=["worker", "java", "haproxy", "engine"],
)
def test_a_killed_process_is_replaced_and_no_session_is_lost(broken: Container, part: str) -> None:
    chat = Chat(broken.url)
    chat.ask(QUESTION)
    killed = broken.find(part)
    killed.kill()
    broken.wait(lambda: broken.running(part) not in ([], [killed]), RESTART_SECONDS)
    broken.wait_serving(RESTART_SECONDS)
    assert chat.ask("What colour is it?") == "red"


def test_a_service_that_hangs_is_unhealthy_until_it_answers_again(broken: Container) -> None:
    broken.wait(lambda: broken.health() == "healthy", 60)
    # The supervisor as well, which would soon replace an edge that does not answer.
    stopped = [psutil.Process(broken.pid), broken.find("haproxy")]
    for process in stopped:
        process.suspend()
    try:
        broken.wait(lambda: broken.health() == "unhealthy", 60)
    finally:
        for process in stopped:
            process.resume()
    broken.wait_serving(RESTART_SECONDS)
    broken.wait(lambda: broken.health() == "healthy", 60)


def test_the_first_process_reaps_orphans(broken: Container) -> None:
    broken.execute("sh", "-c", "sleep 2 >/dev/null 2>&1 &")
    children = psutil.Process(broken.pid).children()
    (orphan,) = [child for child in children if child.name() == "sleep"]
    broken.wait(lambda: not psutil.pid_exists(orphan.pid), 30)
    assert broken.state()["Running"]


def test_a_killed_supervisor_ends_the_container_and_the_sessions_live_on_in_the_next_one(
    image: Image,
) -> None:
    volume = image.engine.output("volume", "create")
    try:
        mounted = ("--volume", f"{volume}:/var/lib/vlm-sessions")
        with serving(image, *mounted) as container:
            chat = Chat(container.url)
            chat.ask(QUESTION)
            processes = container.processes()
            container.signal("KILL")
            assert container.wait_ended() == 128 + 9
            _, alive = psutil.wait_procs(processes, timeout=10)
            assert alive == []
        with serving(image, *mounted) as container:
            chat.url = container.url
            assert chat.prompts() == [QUESTION]
            assert chat.ask("What colour is it?") == "red"
    finally:
        image.engine.run("volume", "rm", volume)
