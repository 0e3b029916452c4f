"""Requests and replies held against the service's own OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

from vlm_sessions.client.sse import SseParser


class Described:
    """A document, asked whether what was sent and said is in it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._validators: dict[int, Draft202012Validator] = {}

    @property
    def methods(self) -> dict[str, str]:
        """Path -> its one method, in capitals."""
        found = {}
        for path, operations in self.document["paths"].items():
            (method,) = operations
            found[path] = method.upper()
        return found

    def statuses(self, path: str) -> set[str]:
        """Of replies of ``path``."""
        return set(self._operation(path)["responses"])

    def accepts(self, path: str, body: object) -> bool:
        """Whether ``path`` takes ``body`` as JSON."""
        content = self._operation(path)["requestBody"]["content"]
        return self.fits(content["application/json"]["schema"], body)

    def fits(self, schema: Mapping[str, Any], value: object) -> bool:
        """Whether ``value`` is what one of the document's schemas says."""
        return self._validator(schema).is_valid(value)

    def check_reply(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Assert that ``path`` may reply so."""
        responses = self._operation(path)["responses"]
        assert str(status) in responses, f"{path} is not said to answer {status}"
        content_type = headers["content-type"].partition(";")[0]
        contents = responses[str(status)]["content"]
        assert content_type in contents, f"{path} is not said to answer {content_type}"
        content = contents[content_type]
        if content_type == "application/json":
            self._validator(content["schema"]).validate(json.loads(body))
        elif content_type == "text/event-stream":
            self._check_events(content["x-events"], body)

    def _check_events(self, schemas: Mapping[str, Any], body: bytes) -> None:
        events = SseParser().feed(body)
        assert events, "a stream of no events"
        for event in events:
            data = event.data if event.data == "[DONE]" else json.loads(event.data)
            self._validator(schemas[event.event]).validate(data)

    def _operation(self, path: str) -> Mapping[str, Any]:
        (operation,) = self.document["paths"][path].values()
        assert isinstance(operation, Mapping)
        return operation

    def _validator(self, schema: Mapping[str, Any]) -> Draft202012Validator:
        """Of a schema within the document, made once."""
        if id(schema) not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[id(schema)] = Draft202012Validator(whole)
        return self._validators[id(schema)]
