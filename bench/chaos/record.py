"""The driver's model of one session: what must be on record, and what may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.chaos.reference import Play
from bench.chaos.scripts import Question

GONE = frozenset({"session_closed", "session_not_found"})
"""What a closed session answers, soon and later."""


@dataclass(eq=False)
class Conversation:
    """One open session that follows a script.

    Attributes:
        num_turns: that were acknowledged, less those that were taken back.
        num_if_done: that it has if the last request was carried out, of which nobody has said what
            became: its connection broke. Until that is settled nothing more is asked, and once told
            it is final. ``None``: all is known.
        may_be_closed: the same of a request to close it.
    """

    session_id: str
    play: Play
    num_turns: int = 0
    num_if_done: int | None = None
    may_be_closed: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether only the service can say what became of the last request."""
        return self.num_if_done is not None or self.may_be_closed

    @property
    def next_question(self) -> Question | None:
        """``None``: the script is at its end."""
        questions = self.play.script.questions
        return questions[self.num_turns] if self.num_turns < len(questions) else None

    def heard(self, answer: dict[str, Any]) -> list[str]:
        """The next question was answered, so it is on record for ever; or cancelled, so it never
        is. What is wrong with the answer."""
        right = self.play.turns[self.num_turns]
        said = answer["text"]
        if answer["finish_reason"] == "cancelled":
            is_right = right["answer"].startswith(said)
        else:
            is_right = (said, answer["finish_reason"]) == (right["answer"], right["finish_reason"])
            self.num_turns += 1
        if is_right:
            return []
        return [self._about(f"{right['prompt']!r} got {said!r}, right is {right['answer']!r}")]

    def settle(self, described: dict[str, Any]) -> list[str]:
        """Nothing of the session runs any more, and it tells what it holds. What is wrong."""
        turns, images = described["turns"], [image["sha256"] for image in described["images"]]
        possible = (
            {self.num_turns} if self.num_if_done is None else {self.num_turns, self.num_if_done}
        )
        problems = []
        if len(turns) not in possible:
            wanted = " or ".join(str(each) for each in sorted(possible))
            problems.append(self._about(f"has {len(turns)} turns, must have {wanted}"))
        if turns != list(self.play.turns[: len(turns)]):
            problems.append(self._about(f"tells turns that were not: {turns}"))
        if images != self.play.images_after(len(turns)):
            problems.append(self._about(f"tells other pictures than it was shown: {images}"))
        if described["system"] != self.play.script.system:
            problems.append(self._about(f"tells the system text {described['system']!r}"))
        self.num_turns = min(len(turns), len(self.play.turns))
        self.num_if_done = None
        self.may_be_closed = False
        return problems

    def _about(self, what: str) -> str:
        return f"session {self.session_id}: {what}"
