"""A checkpoint's chat template, taken apart into what surrounds the text.

Rendering Jinja for every prompt costs milliseconds, and a later turn is only the tail of what is
rendered. So each form that a turn can take is rendered once with sentinels in place of the texts,
cut at them, and afterwards filled in: a form is literal text with slots.

    first turn     render([system?, user])                      USER: <image>\\n▢ ASSISTANT:
    a later turn   what follows ▣ in render([user, ▣, user])    </s>USER: ▢ ASSISTANT:

This holds for templates that only append: what an earlier message renders to may not depend on
later ones. ``processor`` checks that when it loads a model.

Some templates write other white space before an answer of the past than before the one that is to
come (LLaVA-OneVision's: ``assistant \\n`` and ``assistant\\n``). What a model was given cannot be
changed afterwards: with ``joined``, a whole conversation is put together from the forms of its
turns too, and only compared with what the template makes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from vlm_sessions.errors import ConfigError, InvalidField
from vlm_sessions.processing import Message

# For checkpoints that bring none: LLaVA-1.5's.
DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message['role'] != 'system' -%}{{- message['role'].upper() + ': ' -}}{%- endif -%}
  {%- for part in message['content'] if part['type'] == 'image' -%}
    {{- '<image>\\n' -}}
  {%- endfor -%}
  {%- for part in message['content'] if part['type'] == 'text' -%}
    {{- part['text'] + ' ' -}}
  {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


class Slot(Enum):
    """What a client's text fills. The values are the sentinels that templates are rendered with."""

    SYSTEM = "XSLOTSYSTEMX"
    TEXT = "XSLOTTEXTX"


_ANSWER = "XSLOTANSWERX"
_SLOTS = re.compile("|".join(slot.value for slot in Slot))


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a turn: literal text and slots, in order."""

    parts: tuple[str | Slot, ...]

    def fill(self, *, system: str | None, text: str) -> str:
        """The turn with its texts in place."""
        return "".join(
            part if isinstance(part, str) else (text if part is Slot.TEXT else system or "")
            for part in self.parts
        )

    def opening(self, *, system: str | None) -> str:
        """What stands before the user's text."""
        head = self.parts[: self.parts.index(Slot.TEXT)]
        return Form(head).fill(system=system, text="")


class ChatTemplate:
    """Renders conversations of one model as text, whole or turn by turn.

    Args:
        render: messages in Hugging Face's form -> the conversation as text, with the generation
            prompt at its end.
        joined: whether answers of the past stand right behind the generation prompt, whatever the
            template has there.
    """

    def __init__(
        self, render: Callable[[list[dict[str, Any]]], str], *, joined: bool = False
    ) -> None:
        self._render = render
        self._joined = joined
        self.first_form = lru_cache(maxsize=64)(self._first_form)
        self.later_form = lru_cache(maxsize=64)(self._later_form)

    def render(self, messages: Sequence[Message]) -> str:
        """A whole conversation, generation prompt included.

        Raises:
            InvalidField: the template refuses this order of roles.
        """
        try:
            rendered = self._render([_to_hf(message) for message in messages])
        except TemplateError as exc:
            raise InvalidField(
                f"The model's chat template refuses this conversation: {exc}. Messages must be an "
                "optional system message, then user and assistant in turns."
            ) from exc
        return self._join(messages, rendered) if self._joined else rendered

    def _join(self, messages: Sequence[Message], rendered: str) -> str:
        """The conversation as its turns' forms and answers, which say what ``rendered`` says."""
        system = messages[0].text if messages[0].role == "system" else None
        parts: list[str] = []
        for message in messages[system is not None :]:
            if message.role == "assistant":
                parts.append(message.text)
                continue
            num_images = len(message.images)
            form = (
                self.later_form(num_images=num_images)
                if parts
                else self.first_form(system=system is not None, num_images=num_images)
            )
            parts.append(form.fill(system=system, text=message.text))
        joined = "".join(parts)
        if _words(joined) != _words(rendered):
            raise InvalidField(
                "The model's chat template renders the messages of this conversation differently "
                "than it renders each turn."
            )
        return joined

    def _first_form(self, *, system: bool, num_images: int) -> Form:
        """The form of the turn that begins a conversation."""
        messages = [_user(Slot.TEXT.value, num_images)]
        if system:
            messages.insert(0, _hf("system", Slot.SYSTEM.value))
        form = _cut(self._render_form(messages))
        if system and Slot.SYSTEM not in form.parts:
            raise InvalidField("This model takes no system text; leave `system` out.")
        return form

    def _later_form(self, *, num_images: int) -> Form:
        """The form of a turn after an answer: everything that follows the answer's text."""
        messages = [_user("x", 0), _hf("assistant", _ANSWER), _user(Slot.TEXT.value, num_images)]
        _, found, tail = self._render_form(messages).rpartition(_ANSWER)
        if not found:
            raise ConfigError("The chat template leaves out what the assistant said.")
        return _cut(tail)

    def _render_form(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._render(messages)
        except TemplateError as exc:
            raise InvalidField(f"The model's chat template refuses this turn: {exc}.") from exc


def find_template(path: Path, tokenizer_template: object) -> str:
    """The chat template of a checkpoint, where Hugging Face's processors look for it.

    Args:
        tokenizer_template: what the tokenizer found: a template, several by name, or ``None``.
    """
    jinja = path / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    legacy = path / "chat_template.json"
    if legacy.is_file():
        content = json.loads(legacy.read_text(encoding="utf-8"))
        return str(content["chat_template"])
    if isinstance(tokenizer_template, dict):
        tokenizer_template = tokenizer_template.get("default")
    return str(tokenizer_template) if tokenizer_template else DEFAULT_TEMPLATE


def _cut(rendered: str) -> Form:
    parts: list[str | Slot] = []
    end = 0
    for match in _SLOTS.finditer(rendered):
        parts += [rendered[end : match.start()], Slot(match.group())]
        end = match.end()
    parts.append(rendered[end:])
    if Slot.TEXT not in parts:
        raise ConfigError(
            "The chat template does not render messages made of image and text parts, "
            "or changes their text."
        )
    return Form(tuple(part for part in parts if part))


def _words(text: str) -> str:
    """All but the white space."""
    return "".join(text.split())


def _to_hf(message: Message) -> dict[str, Any]:
    return _hf(message.role, message.text, len(message.images))


def _user(text: str, num_images: int) -> dict[str, Any]:
    return _hf("user", text, num_images)


def _hf(role: str, text: str, num_images: int = 0) -> dict[str, Any]:
    content = [{"type": "image"} for _ in range(num_images)]
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}
