"""JSON in and out: bytes to objects with exact complaints, objects to bytes.

Foreign exceptions (the parser's, pydantic's) become errors of ours here and nowhere else. Messages
name fields and positions; values that a client sent are never repeated.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from vlm_sessions.errors import InvalidField, InvalidJson

MAX_REPORTED_PROBLEMS = 3
MAX_NAME_CHARS = 64
MAX_COMMAS = 1_000_000
"""More than any text that fits a context has; a body of nothing but tiny values would otherwise
hold the event loop for seconds."""
MAX_UNKNOWN_FIELDS = 20
"""So many are each looked at for what was meant."""

_UTF8_BOM = b"\xef\xbb\xbf"

ModelT = TypeVar("ModelT", bound=BaseModel)


def dump_json(value: Mapping[str, Any]) -> bytes:
    """One line of pure ASCII, whatever the strings hold.

    Escaped, neither a lone surrogate nor a Unicode line separator can break a reply or split an
    event for a client that reads line by line.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` is.

    Raises:
        InvalidJson: empty, not UTF-8, not JSON (NaN and Infinity are not), nested too deeply, or
            not an object; with the position where there is one.
        InvalidField: it has far more values than any request needs.
    """
    if not body or body.isspace():
        raise InvalidJson("The body is empty: send a JSON object.")
    if body.count(b",") > MAX_COMMAS:
        raise InvalidField(f"The body has more than {MAX_COMMAS} values. Send only what is asked.")
    try:
        value = from_json(body.removeprefix(_UTF8_BOM), allow_inf_nan=False)
    except ValueError as exc:
        raise InvalidJson(_why_not_json(body, exc)) from exc
    if not isinstance(value, dict):
        raise InvalidJson("The body is JSON but not an object: send {…} with named fields.")
    return value


def _why_not_json(body: bytes, problem: ValueError) -> str:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as exc:
        return (
            f"The body is not UTF-8 (byte {exc.start}). Send JSON, or an image with its own "
            "Content-Type such as image/png."
        )
    return f"The body is not JSON: {problem}."


def validate(model: type[ModelT], fields: Mapping[str, Any], name: str) -> ModelT:
    """``fields`` as a ``model``; ``name`` is what messages call the whole, e.g. ``prompt``.

    Raises:
        InvalidField: a field is missing, unknown, of the wrong type or out of range.
    """
    unknown = [field for field in fields if field not in model.model_fields]
    if len(unknown) > MAX_UNKNOWN_FIELDS:
        some = ", ".join(show_name(field) for field in unknown[:MAX_REPORTED_PROBLEMS])
        raise InvalidField(
            f"{name}: {len(unknown)} of its fields are not known, {some} among them; known are "
            f"{', '.join(model.model_fields)}"
        )
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        problems = _problems(exc, model, name)
        more = len(problems) - MAX_REPORTED_PROBLEMS
        tail = f"; and {more} more" if more > 0 else ""
        raise InvalidField("; ".join(problems[:MAX_REPORTED_PROBLEMS]) + tail) from exc


def show_name(name: object) -> str:
    """A client's own word for a message: short, with nothing unprintable."""
    text = str(name)
    shown = "".join(char if char.isprintable() else "?" for char in text[:MAX_NAME_CHARS])
    return shown + ("…" if len(text) > MAX_NAME_CHARS else "")


def _problems(exc: ValidationError, model: type[BaseModel], name: str) -> list[str]:
    """One sentence for each field, in the order of the first complaint about it."""
    by_place: dict[str, str] = {}
    for error in exc.errors(include_url=False, include_input=False, include_context=True):
        place, text = _describe(error, model, name)
        by_place.setdefault(place, f"{place}: {text}")
    return list(by_place.values())


def _describe(error: ErrorDetails, model: type[BaseModel], name: str) -> tuple[str, str]:
    location = error["loc"]
    if len(location) >= 2 and location[0] == "images":
        # pydantic complains once for each kind of image that it is not.
        return (
            f"{name}.images[{location[1]}]",
            'must be a URL, a data URL, base64, or {"data": base64}',
        )
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields) if len(location) == 1 else []
        return _place(name, location), f"is not a known field{_suggestion(location[-1], known)}"
    return _place(name, location), _explain(error)


def _suggestion(field: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(field)[:MAX_NAME_CHARS], known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def _place(name: str, location: Sequence[int | str]) -> str:
    place = name
    for step in location:
        place += f"[{step}]" if isinstance(step, int) else f".{show_name(step)}"
    return place


_EXPLANATIONS: Mapping[str, str] = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
}
"""pydantic's kinds of complaint, in our words; the names in braces are from its context."""


def _explain(error: ErrorDetails) -> str:
    template = _EXPLANATIONS.get(error["type"])
    return error["msg"] if template is None else template.format(**_rounded(error.get("ctx", {})))


def _rounded(context: Mapping[str, Any]) -> dict[str, Any]:
    """Limits as people write them: 5, not 5.0."""
    return {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
