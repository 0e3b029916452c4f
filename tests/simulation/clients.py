"""Clients: they open, ask, read slowly, leave, cancel, fork, rewind, close, and check every reply.

None of them waits for another, and each may ask for what cannot be: a session that has ended, more
turns back than there are, a prompt too many. What comes back must then be an error with its code,
and nothing may have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.simulation.desk import Desk
from tests.simulation.expected import Oracle
from tests.simulation.loop import until
from tests.simulation.pictures import Picture, picture
from tests.simulation.readers import Readers
from tests.simulation.requests import Asking, Closing, Forking, Opening, Request, Rewinding
from tests.simulation.scene import Scene
from tests.simulation.witness import Witness
from vlm_sessions.protocol.schema import OpenSession, RewindSession

NUM_SHARED_PICTURES = 5
NUM_SEEN = 20


class Clients:
    """All clients of one service, over all its lives."""

    def __init__(self, scene: Scene, witness: Witness, oracle: Oracle, desk: Desk) -> None:
        self._random = scene.random
        self._scene = scene
        self._requests = scene.requests
        self._witness = witness
        self._desk = desk
        self._readers = Readers(scene, witness, oracle)
        self._think_seconds = scene.random.choice([0.02, 0.1, 0.5, 3.0])
        self._max_open = scene.random.choice([3, 8, 16])
        self._num_pictures = NUM_SHARED_PICTURES
        self._seen: list[str] = []
        """Ids of sessions, the newest last."""
        self._focus: str | None = None
        """The session that is asked several things at the same moment."""

    async def drive(self, wants_more: Callable[[], bool]) -> None:
        """Make requests as long as more are wanted; does not wait for the last of them."""
        while wants_more():
            await asyncio.sleep(self._random.expovariate(1 / self._think_seconds))
            self._focus = None
            for _ in range(self._random.choice([1, 1, 1, 2, 4])):
                if len(self._requests) < self._max_open:
                    self._make_request()

    async def wait_for_all(self) -> None:
        """Until every request has its reply; each is bound to get one."""
        await until(lambda: not self._requests)

    def give_up(self) -> None:
        """The service has died and is back: what was not recorded by then will never be."""
        for request in self._requests.values():
            request.is_open = False
            if isinstance(request, Asking):
                request.was_denied = not request.is_recorded
        self._requests.clear()

    # --- requests -------------------------------------------------------------------------------

    def _make_request(self) -> None:
        kinds: dict[Callable[[], None], float] = {
            self._open: 3 if len(self._witness.sessions) < 4 else 0.7,
            self._ask: 14,
            self._cancel: 2,
            self._fork: 1.5,
            self._rewind: 2,
            self._close: 0.8,
            self._describe: 1,
            self._ask_alone: 1,
        }
        [kind] = self._random.choices(list(kinds), list(kinds.values()))
        kind()

    def ask_in(self, session_id: str) -> None:
        """Ask something simple in a session, in patience."""
        number = self._desk.next_number()
        request = Asking(number, session_id, text=f"q{number}", max_new_tokens=3)
        self._desk.begin(request, lambda: self._readers.ask(self._desk.to, request, patient=True))

    def close(self, session_id: str) -> None:
        closing = Closing(self._desk.next_number(), session_id)

        async def work() -> None:
            await self._desk.to.service.close_session(session_id)
            assert session_id not in self._witness.sessions, "what is closed is gone"

        self._desk.begin(closing, work)

    def _open(self) -> None:
        random = self._random
        system = random.choice([None, None, "", "Be."])
        opening = Opening(
            self._desk.next_number(),
            None,
            system=system,
            pictures=self._some_pictures([0, 1, 1, 2]),
        )
        command = OpenSession(
            images=tuple(p.as_input(raw=random.random() < 0.5) for p in opening.pictures),
            system=system,
        )

        async def work() -> None:
            opened = await self._desk.to.service.open(command)
            self._witness.tell(opened.lifetime)
            assert [i.sha256 for i in opened.images] == [p.digest for p in opening.pictures]
            self._witness.check_session_on_disk(opened.lifetime.session_id, self._desk.to.directory)

        self._desk.begin(opening, work)

    def _ask(self) -> None:
        random = self._random
        session_id = self._some_session()
        if session_id is None:
            return
        number = self._desk.next_number()
        request = Asking(
            number,
            session_id,
            text=f"q{number}",
            pictures=self._some_pictures([0, 0, 0, 0, 1, 2]),
            max_new_tokens=random.choice([1, 3, 6, 20]),
            temperature=random.choice([0.0, 0.0, 1.0]),
            seed=random.randrange(3),
            stop=random.choice([(), (), ("a",), ("b", "ee")]),
            ignore_eos=random.random() < 0.3,
            stream=random.random() < 0.5,
        )
        self._desk.begin(request, lambda: self._readers.ask(self._desk.to, request, patient=False))

    def _ask_alone(self) -> None:
        number = self._desk.next_number()
        request = Asking(
            number,
            None,
            text=f"q{number % 5}",
            system=self._random.choice([None, "Be."]),
            pictures=self._some_pictures([0, 1, 2]),
        )
        self._desk.begin(request, lambda: self._readers.ask(self._desk.to, request, patient=False))

    def _cancel(self) -> None:
        asked = [one for one in self._requests.values() if isinstance(one, Asking)]
        if not asked:
            return
        victim = self._random.choice(asked)
        request = Request(self._desk.next_number(), victim.session_id)

        async def work() -> None:
            if victim.session_id is None or self._random.random() < 0.5:
                was_recorded = victim.is_recorded
                if await self._desk.to.service.cancel_request(victim.name):
                    assert not was_recorded, "what is recorded can no longer be cancelled"
                    victim.was_denied = True
            else:
                cancelled = await self._desk.to.service.cancel(victim.session_id)
                self._desk.note(f"cancelled: {cancelled.cancelled}")

        self._desk.begin(request, work)

    def _fork(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return

        async def work() -> None:
            opened = await self._desk.to.service.fork(session_id)
            self._witness.tell(opened.lifetime)
            self._witness.check_session_on_disk(opened.lifetime.session_id, self._desk.to.directory)

        self._desk.begin(Forking(self._desk.next_number(), session_id), work)

    def _rewind(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return
        num_turns = self._random.choice([1, 1, 2, 3])

        async def work() -> None:
            rewound = await self._desk.to.service.rewind(session_id, RewindSession(turns=num_turns))
            assert rewound.rewound == num_turns
            self._witness.tell(rewound.lifetime)

        self._desk.begin(Rewinding(self._desk.next_number(), session_id, num_turns=num_turns), work)

    def _close(self) -> None:
        session_id = self._some_session()
        if session_id is not None:
            self.close(session_id)

    def _describe(self) -> None:
        session_id = self._some_session()
        if session_id is None:
            return

        async def work() -> None:
            before = self._witness.sessions.get(session_id)
            described = await self._desk.to.service.describe(session_id)
            if before is None or self._witness.sessions.get(session_id) is not before:
                return
            assert [(t.prompt, t.answer) for t in described.turns] == [
                (t.prompt, t.answer) for t in before.turns
            ]
            caches = described.caches
            assert caches.kv_tokens + caches.host_kv_tokens <= described.tokens

        self._desk.begin(Request(self._desk.next_number(), session_id), work)

    # --- choices ------------------------------------------------------------------------------

    def _some_session(self) -> str | None:
        """An open one, as a rule."""
        for session_id in self._witness.sessions:
            if session_id not in self._seen:
                self._seen.append(session_id)
        del self._seen[:-NUM_SEEN]
        known = list(self._witness.sessions)
        if not known or self._random.random() < 0.05:
            known = self._seen
        if self._focus not in known or self._random.random() < 0.3:
            self._focus = self._random.choice(known) if known else None
        return self._focus

    def _some_pictures(self, how_many: list[int]) -> tuple[Picture, ...]:
        pictures = []
        for _ in range(self._random.choice(how_many)):
            number = self._random.randrange(NUM_SHARED_PICTURES)
            if self._random.random() < 0.2:
                number = self._num_pictures = self._num_pictures + 1
            one = picture(number)
            self._scene.pictures[one.digest] = one
            pictures.append(one)
        return tuple(pictures)
