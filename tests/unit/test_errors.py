"""The error tree is what its documentation draws."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from vlm_sessions import errors
from vlm_sessions.errors import MAX_MESSAGE_CHARS, ConfigError, VlmError


def tree(root: type[VlmError] = VlmError) -> Iterator[type[VlmError]]:
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


CLASSES = tuple(tree())

# "    │   ├── InvalidJson            the body is not JSON" and "    ├── BadRequest 400 …"
DRAWN = re.compile(r"^    ([│ ]*)[├└]── (\w+)(?: (\d{3}))?", re.MULTILINE)


def test_the_docstring_draws_every_class_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    branch = "VlmError"
    for indent, name, _ in DRAWN.findall(errors.__doc__ or ""):
        if not indent:
            branch = name
        drawn[name] = branch if indent else "VlmError"

    assert drawn == {cls.__name__: cls.__mro__[1].__name__ for cls in CLASSES}


def test_the_docstring_tells_each_branch_its_status() -> None:
    drawn = {name: int(status) for _, name, status in DRAWN.findall(errors.__doc__ or "") if status}

    assert drawn == {cls.__name__: cls.status for cls in VlmError.__subclasses__()}


def test_codes_are_unique_and_the_names_of_their_classes() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    for cls in CLASSES:
        assert cls.code == re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_a_status_is_one_of_http_and_an_errors(cls: type[VlmError]) -> None:
    assert HTTPStatus(cls.status).value >= 400


@pytest.mark.parametrize("branch", VlmError.__subclasses__(), ids=lambda cls: cls.code)
def test_a_branch_shares_one_status(branch: type[VlmError]) -> None:
    assert {cls.status for cls in tree(branch)} <= {branch.status}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_exactly_the_errors_that_pass_say_when_to_retry(cls: type[VlmError]) -> None:
    assert (cls("x").retry_after is not None) == (cls.status in (429, 503))
    assert cls("x", retry_after=2.5).retry_after == 2.5


def test_a_message_stays_within_what_sagemaker_passes_on() -> None:
    assert len(errors.InvalidField("x" * 5000).message) == MAX_MESSAGE_CHARS < 2048


def test_an_error_of_the_settings_never_reaches_a_client() -> None:
    assert not issubclass(ConfigError, VlmError)
