"""deploy/compose under load and under attack: sessions stay where they are, and are not lost."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest

from tests.container.compose import REPLICAS, ROUTERS, Compose
from tests.container.container import Container
from tests.container.talk import ANSWER, PICTURE, QUESTION, SESSION, Chat, post

NUM_SESSIONS = 200
NUM_PROMPTS = 2000
NUM_CLIENTS = 16
REQUEST_SECONDS = aiohttp.ClientTimeout(total=90)
MOST_TRIES = 10
MOST_TURNS = 40
"""Of a session: after a hundred of the same question the built-in model no longer knows."""
NOTICED_SECONDS = 20.0
MAX_OPENED = 4 * NUM_SESSIONS
"""More than the tests before may have left to one replica."""


class Load:
    """Clients that take the routers in turn, and come back when a busy service says to."""

    def __init__(self, http: aiohttp.ClientSession, urls: list[str]) -> None:
        self._http = http
        self._urls = itertools.cycle(urls)
        self._gate = asyncio.Semaphore(NUM_CLIENTS)

    async def open(self) -> str:
        picture = {"Content-Type": "image/png"}
        opened = await self._post(data=PICTURE.read_bytes(), headers=picture)
        return str(opened["session_id"])

    async def ask(self, session: str) -> str:
        prompt = {"type": "prompt", "prompt": QUESTION, "max_new_tokens": 16}
        return str((await self._post(json=prompt, headers={SESSION: session}))["text"])

    async def num_turns(self, session: str) -> int:
        describe = {"type": "describe_session"}
        return len((await self._post(json=describe, headers={SESSION: session}))["turns"])

    async def _post(self, **request: Any) -> dict[str, Any]:
        url = f"{next(self._urls)}/invocations"
        async with self._gate:
            for _ in range(MOST_TRIES):
                async with self._http.post(url, **request) as got:
                    body: dict[str, Any] = await got.json()
                    if got.status != HTTPStatus.TOO_MANY_REQUESTS:
                        break
                    await asyncio.sleep(float(got.headers["Retry-After"]))
        assert got.status == HTTPStatus.OK, body
        return body


def with_load(project: Compose, work: Callable[[Load], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(timeout=REQUEST_SECONDS) as http:
            await work(Load(http, [project.container(router).url for router in ROUTERS]))

    asyncio.run(main())


def refused(url: str, session: str) -> tuple[int, str]:
    """Status and code of a prompt that is refused; (200, "") of one that is not."""
    reply = post(url, {"type": "prompt", "prompt": QUESTION, "max_new_tokens": 16}, session)
    return reply.status_code, reply.json().get("error", {}).get("code", "")


@pytest.mark.timeout(600, func_only=True)
def test_200_sessions_and_2000_prompts_through_both_routers_are_never_misrouted(
    project: Compose,
) -> None:
    async def work(load: Load) -> None:
        sessions = await asyncio.gather(*(load.open() for _ in range(NUM_SESSIONS)))
        asked = list(sessions) * (NUM_PROMPTS // NUM_SESSIONS)
        # A replica that does not know a session answers 404, which `ask` does not take.
        answers = Counter(await asyncio.gather(*map(load.ask, asked)))
        assert answers == {ANSWER: NUM_PROMPTS}
        turns = Counter(await asyncio.gather(*map(load.num_turns, sessions)))
        assert turns == {NUM_PROMPTS // NUM_SESSIONS: NUM_SESSIONS}

    with_load(project, work)


@pytest.mark.timeout(600, func_only=True)
def test_an_update_of_all_replicas_under_load_fails_no_request_and_loses_no_session(
    project: Compose,
) -> None:
    async def work(load: Load) -> None:
        sessions = [await load.open() for _ in range(12)]
        asked: Counter[str] = Counter()
        updated = asyncio.Event()

        async def keep_asking(session: str) -> None:
            while not updated.is_set():
                if asked[session] == MOST_TURNS:
                    session = await load.open()
                assert await load.ask(session) == ANSWER
                asked[session] += 1
                await asyncio.sleep(0.2)

        async with asyncio.TaskGroup() as clients:
            for session in sessions:
                clients.create_task(keep_asking(session))
            for replica in REPLICAS:
                await asyncio.to_thread(project.replace, replica)
            updated.set()
        assert min(asked[each] for each in sessions) >= 2
        assert {each: await load.num_turns(each) for each in asked} == asked

    with_load(project, work)


def test_when_a_router_is_killed_the_other_one_serves_all_sessions_at_once(
    project: Compose,
) -> None:
    killed, other = (project.container(router) for router in ROUTERS)

    sessions = [Chat(killed.url).id for _ in range(6)]
    killed.signal("KILL")
    killed.wait_ended()
    assert {refused(other.url, session) for session in sessions} == {(200, "")}

    killed.start()
    killed.wait(lambda: killed.health() == "healthy", 120)
    assert {refused(killed.url, session) for session in sessions} == {(200, "")}


def test_sessions_of_a_killed_replica_are_lost_until_it_is_back_and_no_others_are(
    project: Compose,
) -> None:
    router = project.container("router-a")
    replicas = [project.container(name) for name in REPLICAS]

    owned = open_on_all(router, replicas)
    sessions = list(owned)
    killed = owned[sessions[0]]
    killed.signal("KILL")
    killed.wait_ended()
    router.wait(lambda: refused(router.url, sessions[0])[0] == 410, NOTICED_SECONDS)
    told = {session: refused(router.url, session) for session in sessions}
    assert told == {
        session: (410, "session_lost") if owner is killed else (200, "")
        for session, owner in owned.items()
    }

    killed.start()
    killed.wait_serving()
    router.wait(lambda: refused(router.url, sessions[0])[0] == 200, NOTICED_SECONDS)
    assert {refused(router.url, session) for session in sessions} == {(200, "")}


def open_on_all(router: Container, replicas: list[Container]) -> dict[str, Container]:
    """Session -> its replica; every replica has some of them.

    New ones go to the replica with the fewest, which for a while is one alone where an earlier test
    has left it so.
    """
    owned: dict[str, Container] = {}
    while len(owned) < 8 or len({each.identity for each in owned.values()}) < len(replicas):
        assert len(owned) < MAX_OPENED, "all new sessions go to one replica"
        session = Chat(router.url).id
        owned[session] = owner_of(session, replicas)
    return owned


def owner_of(session: str, replicas: list[Container]) -> Container:
    """Asked without a router: the one that knows it."""
    describe = {"type": "describe_session"}
    (owner,) = [each for each in replicas if post(each.url, describe, session).status_code == 200]
    return owner
