"""What an undisturbed service answers.

A session follows one script, and its record is always the beginning of it. So what must be on
record, after whatever has happened, is told by a number: how many turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.chaos.scripts import Script
from bench.chaos.talk import Talk


@dataclass(frozen=True, slots=True)
class Play:
    """A script with what is right: ``turns[n]`` is what ``describe_session`` tells of turn n."""

    script: Script
    turns: tuple[dict[str, Any], ...]

    def images_after(self, num_turns: int) -> list[str]:
        """Digests of the session's pictures once it has so many turns."""
        later = [question.picture for question in self.script.questions[:num_turns]]
        pictures = [*self.script.opening, *(picture for picture in later if picture)]
        return [picture.digest for picture in pictures]


async def learn(talk: Talk, script: Script) -> Play:
    """Hold the whole conversation, alone, with a service that nothing disturbs.

    Raises:
        Refused, Broke, Hung, Garbled: something does.
    """
    session_id = await talk.open(script)
    for question in script.questions:
        await talk.ask(session_id, question, stream=False)
    described = await talk.describe(session_id)
    await talk.close(session_id)
    return Play(script, tuple(described["turns"]))
