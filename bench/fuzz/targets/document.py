"""The whole service by the document that it publishes: schemathesis.

It makes requests that the document allows and requests that it does not. The replies are those of
the document, none is a 5xx, and none accepts what the document does not allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bench.fuzz.corpus.odd import odd_files
from bench.fuzz.running import SESSION, TIMEOUT_SECONDS, RunningService
from bench.fuzz.target import Target
from bench.fuzz.targets.service import MAX_GROWTH_MIB
from vlm_sessions.media.decode import CONTENT_TYPES

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
_SHARES = {"/invocations": 8, "/v1/chat/completions": 4}
"""Path -> how often it is asked, for each time that one of the others is."""


@dataclass(frozen=True, slots=True)
class Asked:
    case: Case[Any]
    in_session: bool
    """Whether the header names a session that is open."""


class _Feeding:
    def __init__(self, url: str) -> None:
        self._service = RunningService(url)
        self._http = requests.Session()
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        cases: list[st.SearchStrategy[Case[Any]]] = []
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            modes = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
            if operation.body:
                modes.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            cases += modes * _SHARES.get(operation.path, 1)
        self._inputs = st.builds(Asked, case=st.one_of(cases), in_session=st.booleans())

    def target(self) -> Target[Asked]:
        return Target(
            self._feed,
            self._check,
            processes=self._service.processes,
            finish=self._service.finish,
            max_growth_mib=MAX_GROWTH_MIB,
        )

    def _feed(self, seed: int, numbers: range, check: Callable[[Asked], None]) -> None:
        """By hypothesis: the round as a whole follows from its seed and its first number."""
        limited = settings(
            max_examples=len(numbers),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed + numbers.start)(limited(given(self._inputs)(check)))()

    def _check(self, asked: Asked) -> str:
        headers = {SESSION: self._service.session_id()} if asked.in_session else {}
        response = asked.case.call(
            base_url=self._service.url,
            session=self._http,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
        )
        # With another session in its header, what was to be refused for the header is not.
        checks = _CHECKS if asked.in_session else [*_CHECKS, negative_data_rejection]
        asked.case.validate_response(response, checks=checks, headers=headers)
        told = {name: values[0] for name, values in response.headers.items()}
        self._service.heard(response.status_code, told)
        return f"{asked.case.method} {asked.case.path} {response.status_code}"


def document_target(url: str) -> Target[Asked]:
    """Of the service at ``url``, on this machine."""
    pictures = st.sampled_from([odd.content for odd in odd_files()]) | st.binary(max_size=64)
    for content_type in CONTENT_TYPES:
        schemathesis.openapi.media_type(content_type, pictures)
    return _Feeding(url).target()
