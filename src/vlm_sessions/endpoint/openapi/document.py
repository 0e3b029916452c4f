"""The whole document. A test compares its paths with the endpoint's routes."""

from __future__ import annotations

from functools import cache

from vlm_sessions import __version__
from vlm_sessions.endpoint.openapi.chat import CHAT_REQUEST
from vlm_sessions.endpoint.openapi.replies import (
    NATIVE_REPLIES,
    command_success,
    error_replies,
    reply_schemas,
    success,
)
from vlm_sessions.endpoint.openapi.requests import (
    SESSION_PARAMETER,
    invocation_bodies,
    request_schemas,
)
from vlm_sessions.endpoint.openapi.schemas import Schema, ref
from vlm_sessions.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from vlm_sessions.protocol.jsonio import dump_json
from vlm_sessions.protocol.openai_schema import ChatCompletion, ModelList
from vlm_sessions.protocol.replies import HealthReply

_DESCRIPTION = (
    "Sessions on images for vision-language models. The session travels in a header. Errors have "
    "one shape, and one more field or two on OpenAI's paths; a method that a path does not have "
    "is answered 405, an unknown path 404."
)

_KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
"""How a key travels; a service without a file of keys asks for none."""


def openapi_document() -> Schema:
    """OpenAPI 3.1, as JSON objects."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "vlm-sessions", "version": __version__, "description": _DESCRIPTION},
        "paths": {
            "/invocations": {"post": _invocations()},
            "/v1/chat/completions": {"post": _chat_completions()},
            "/v1/models": {"get": _asked("The model served.", success(ModelList))},
            "/ping": {"get": _health()},
            "/metrics": {
                "get": _asked(
                    "Prometheus metrics.", success(None, METRICS_CONTENT_TYPE.partition(";")[0])
                )
            },
            "/openapi.json": {"get": _asked("This document.", _described())},
        },
        "security": [{}, *({name: []} for name in _KEYS)],
        "components": {
            "schemas": {**request_schemas(), **reply_schemas()},
            "securitySchemes": _KEYS,
        },
    }


@cache
def openapi_json() -> bytes:
    """The same as bytes. It follows from the code alone, so it is made once."""
    return dump_json(openapi_document())


def _invocations() -> Schema:
    return {
        "operationId": "invoke",
        "summary": "Open, ask, cancel, describe, fork, rewind and close; in several dialects.",
        "parameters": [SESSION_PARAMETER],
        "requestBody": {"required": True, "content": invocation_bodies()},
        "responses": {
            "200": command_success((*NATIVE_REPLIES, ChatCompletion), native=True),
            **error_replies(of_commands=True),
        },
    }


def _chat_completions() -> Schema:
    return {
        "operationId": "complete_chat",
        "summary": "OpenAI's chat completions; in a session, if the header names one.",
        "parameters": [SESSION_PARAMETER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref(CHAT_REQUEST)}},
        },
        "responses": {
            "200": command_success((ChatCompletion,), native=False),
            **error_replies(of_commands=True),
        },
    }


def _asked(summary: str, reply: Schema) -> Schema:
    """A GET without parameters."""
    return {"summary": summary, "responses": {"200": reply, **error_replies(of_commands=False)}}


def _health() -> Schema:
    """Open to all: ``guard.OPEN_PATHS``."""
    return {
        "summary": "Whether a prompt would succeed now.",
        "security": [],
        "responses": {
            "200": success(HealthReply),
            **error_replies(of_commands=False, guarded=False),
        },
    }


def _described() -> Schema:
    reply = success(None)
    reply["content"]["application/json"]["schema"] = {
        "type": "object",
        "required": ["openapi", "info", "paths"],
    }
    return reply
