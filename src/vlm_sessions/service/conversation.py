"""Chat messages and what they mean for a conversation that is already recorded.

A chat client sends its whole history, a session has it already. In a session, messages may hold
only something new, or the conversation so far and then something new; nothing else.
Consecutive messages of the user are one question, their texts joined by a newline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlm_sessions.errors import ConversationMismatch, InvalidField, VlmError
from vlm_sessions.protocol.schema import ChatMessage, ImageInput
from vlm_sessions.sessions.session import Session


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer; ``answer`` is ``None`` for the last question only."""

    index: int
    """Where its first message stands among the messages."""
    text: str
    images: tuple[ImageInput, ...]
    answer: str | None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order: perhaps a system text, answered questions, one open question."""

    system: str | None
    past: tuple[Exchange, ...]
    question: Exchange


def parse_dialogue(
    messages: Sequence[ChatMessage], error: type[VlmError] = InvalidField
) -> Dialogue:
    """Bring messages into the order that a conversation has.

    Raises:
        error: the roles do not follow one another as they must.
        InvalidField: the last message is not the user's, or says nothing.
    """
    system: str | None = None
    exchanges: list[Exchange] = []
    if messages[-1].role != "user":
        raise InvalidField("messages must end with a message of role user: the question.")
    for index, message in enumerate(messages):
        if message.role == "system":
            if index != 0:
                raise error(f"messages[{index}]: role system is allowed only at the beginning.")
            if message.images:
                raise InvalidField("messages[0]: a system message cannot have images.")
            system = message.text
        elif message.role == "user":
            if exchanges and exchanges[-1].answer is None:
                exchanges[-1] = _joined(exchanges[-1], message)
            else:
                exchanges.append(Exchange(index, message.text, message.images, None))
        else:
            if not exchanges or exchanges[-1].answer is not None:
                raise error(f"messages[{index}]: role assistant must follow a message of the user.")
            if message.images:
                raise InvalidField(f"messages[{index}]: an assistant's message has no images.")
            last = exchanges[-1]
            exchanges[-1] = Exchange(last.index, last.text, last.images, message.text)
    question = exchanges.pop()
    if not question.text.strip() and not question.images:
        raise InvalidField(f"messages[{question.index}]: the question is empty.")
    return Dialogue(system, tuple(exchanges), question)


def merge_system(session: Session, system: str | None) -> str | None:
    """The session's system text, given what the messages say it is.

    Raises:
        ConversationMismatch: the session has another one.
    """
    if system is None or system == session.system:
        return session.system
    if session.system is None and not session.turns:
        return system
    raise _mismatch(0, "system", "the session's system text is another one")


def check_texts(session: Session, past: Sequence[Exchange]) -> None:
    """Compare the texts of ``past``, unless empty, with the conversation of the session.

    Raises:
        ConversationMismatch: they differ; the message names the first difference by its index.
    """
    if not past:
        return
    for exchange, turn in zip(past, session.turns, strict=False):
        if exchange.text != turn.prompt:
            raise _mismatch(exchange.index, "user", "the session was asked something else here")
        if exchange.answer is not None and exchange.answer.strip() != turn.answer.strip():
            raise _mismatch(exchange.index + 1, "assistant", "the session answered otherwise")
    if len(past) != len(session.turns):
        raise ConversationMismatch(
            f"messages hold {len(past)} answered questions, the session {len(session.turns)}. "
            "Send only the new message, or the whole conversation so far and the new message."
        )


def check_images(session: Session, number: int, exchange: Exchange, digests: Sequence[str]) -> None:
    """Compare the images of a past exchange with those of the session's turn ``number``.

    Images that came with the opening of the session may be repeated in the first message or not.

    Raises:
        ConversationMismatch: they differ.
    """
    turn = session.turns[number]
    accepted = [turn.digests]
    if number == 0:
        accepted.append(turn.digests[session.num_opening_images :])
    if tuple(digests) not in accepted:
        raise _mismatch(exchange.index, "user", "the session has other images here")


def num_repeated(session: Session, digests: Sequence[str]) -> int:
    """How many leading images of a first question are those that the session was opened with."""
    opening = tuple(image.digest for image in session.pending_images)
    return len(opening) if opening and tuple(digests[: len(opening)]) == opening else 0


def _joined(exchange: Exchange, message: ChatMessage) -> Exchange:
    return Exchange(
        exchange.index,
        f"{exchange.text}\n{message.text}",
        (*exchange.images, *message.images),
        None,
    )


def _mismatch(index: int, role: str, difference: str) -> ConversationMismatch:
    return ConversationMismatch(
        f"messages[{index}] (role {role}) does not continue this session: {difference}. Send only "
        "the new message, or the whole conversation so far and the new message."
    )
