"""Writes the pages that follow from the code: ``python -m docs.generate``.

    settings.md   from ``config.Settings``
    errors.md     from the tree in ``errors``
    metrics.md    from what ``Metrics`` renders

A test fails while a page differs from what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

from prometheus_client.parser import text_string_to_metric_families
from pydantic.fields import FieldInfo

from vlm_sessions import errors
from vlm_sessions.config import API_KEY_VARIABLE, PREFIX, SAGEMAKER_NAMES, Settings
from vlm_sessions.engine.types import EngineStats
from vlm_sessions.metrics import Metrics

FOLDER = Path(__file__).parent
GENERATED = "<!-- Written by `python -m docs.generate`. -->"


def settings_page() -> str:
    """Every setting: its variable, default, limits and meaning."""
    aliases: dict[str, list[str]] = {}
    for name, field in SAGEMAKER_NAMES.items():
        aliases.setdefault(field, []).append(f"`{name}`")
    rows = [
        _row(
            f"`{PREFIX}{name.upper()}`",
            _default(field),
            _limits(field),
            field.description or "",
            ", ".join(aliases.get(name, [])),
        )
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            GENERATED,
            "",
            "All settings are environment variables, read once at the start. A `VLM_` name that is",
            "not in this table is refused, with the nearest name that is. An empty value counts as",
            "unset. SageMaker's own name of a setting works too; the `VLM_` name wins over it.",
            f"`{API_KEY_VARIABLE}` is no setting: it is the client's, which may run beside it.",
            "",
            _row("variable", "default", "values", "meaning", "SageMaker's name"),
            _row(*["---"] * 5),
            *rows,
            "",
        ]
    )


def errors_page() -> str:
    """Every error that can reach a client."""
    meanings = dict(_meanings())
    kinds = sorted(_tree(errors.VlmError), key=lambda kind: (kind.status, kind.code))
    rows = [
        _row(
            str(kind.status),
            f"`{kind.code}`",
            _inherited(meanings, kind),
            "" if kind.default_retry_after is None else f"{kind.default_retry_after:g} s",
        )
        for kind in kinds
    ]
    return "\n".join(
        [
            "# Errors",
            "",
            GENERATED,
            "",
            'Every error is `{"error":{"code","message"}}` with the status that fits. `code` is',
            "for programs and never changes its meaning; `message` says what is wrong and how to",
            "put it right. An error changes nothing: the session is as it was. Where a",
            "`Retry-After` is given, the same request may succeed after it.",
            "",
            "Once a stream has begun its status of 200 is sent; what fails then is an `error`",
            "event with the same body. SageMaker turns each of these into a `ModelError` with",
            "status 424 and puts status and body into `OriginalStatusCode` and `OriginalMessage`.",
            "",
            "Bytes that are no HTTP request, or whose headers do not come or fill more than 12 kB,",
            "get HAProxy's own page with status 400, 408 or 422, and the connection is closed.",
            "",
            _row("status", "code", "meaning", "Retry-After"),
            _row(*["---"] * 4),
            *rows,
            "",
        ]
    )


def metrics_page() -> str:
    """Every metric of /metrics: its name, kind, labels and meaning."""
    metrics = Metrics()
    metrics.count_request(route="", operation="", status=200, seconds=0.0)
    metrics.count_error("")
    metrics.observe_first_token(0.0, turn="first", cached=False)
    told = metrics.render(engine=EngineStats(), num_open_sessions=0).decode()
    rows = [
        _row(
            f"`{family.name}_total`" if family.type == "counter" else f"`{family.name}`",
            family.type,
            ", ".join(f"`{label}`" for label in family.samples[0].labels if label != "le"),
            family.documentation,
        )
        for family in text_string_to_metric_families(told)
        if family.samples and not family.name.endswith("_created")
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            GENERATED,
            "",
            "`GET /metrics` tells these as Prometheus text. The `vlm_engine_` counters begin anew",
            "when an engine process is replaced.",
            "",
            _row("metric", "kind", "labels", "meaning"),
            _row(*["---"] * 4),
            *rows,
            "",
        ]
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
}


def write() -> None:
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


def _default(field: FieldInfo) -> str:
    if field.default is None or field.default == ():
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default}`"


def _limits(field: FieldInfo) -> str:
    annotation = field.annotation
    if field.default == "auto" and get_origin(annotation) is not Literal:
        return "`auto`, ≥ 0"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is bool:
        return "`true`, `false`"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in field.metadata
        for name, sign in signs.items()
        if hasattr(constraint, name)
    ]
    return ", ".join(limits)


def _tree(root: type[errors.VlmError]) -> Iterator[type[errors.VlmError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


def _meanings() -> Iterator[tuple[str, str]]:
    """Class name -> what the drawing in the module's docstring says about it."""
    drawing = inspect.cleandoc(errors.__doc__ or "")
    for match in re.finditer(r"[├└]── (\w+)(?: \d{3})?(?: +(\S.*))?$", drawing, re.MULTILINE):
        yield match.group(1), match.group(2) or ""


def _inherited(meanings: dict[str, str], kind: type[errors.VlmError]) -> str:
    """Its own meaning, else that of its nearest ancestor, else its name in words."""
    for ancestor in kind.__mro__:
        meaning = meanings.get(ancestor.__name__, "")
        if meaning and not meaning.startswith("with Retry-After"):
            return meaning
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    write()
