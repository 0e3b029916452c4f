"""OpenAI's chat requests, described as ``openai_request`` reads them.

What is acted on, by its model; what is ignored; what is accepted only where it asks for nothing.
"""

from __future__ import annotations

from vlm_sessions.endpoint.openapi.schemas import Schema, any_of, one_of, ref, schemas_of
from vlm_sessions.protocol.openai_request import (
    ACCEPTED_AND_IGNORED,
    EMPTY_VALUES,
    IGNORED_IN_MESSAGES,
    NEUTRAL_VALUES,
    ROLES,
    ChatBody,
    ImagePart,
    TextPart,
)
from vlm_sessions.protocol.schema import SamplingOptions

CHAT_REQUEST, CHAT_MESSAGE = "ChatRequest", "ChatRequestMessage"

_NULL: Schema = {"type": "null"}
"""Counts as absent, in every field."""


def chat_schemas() -> dict[str, Schema]:
    """Name -> schema."""
    schemas = schemas_of([ChatBody, TextPart, ImagePart], "validation")
    body = schemas.pop(ChatBody.__name__)
    acted_on = body["properties"]
    acted_on["messages"]["items"] = ref(CHAT_MESSAGE)
    stops = schemas_of([SamplingOptions], "validation")[SamplingOptions.__name__]["properties"][
        "stop"
    ]
    acted_on["stop"] = any_of([stops, stops["items"]])
    for name, schema in acted_on.items():
        if name not in body["required"]:
            acted_on[name] = any_of([schema, _NULL])
    for name in sorted(ACCEPTED_AND_IGNORED):
        acted_on[name] = {"description": "Accepted and ignored."}
    for name, values in sorted(NEUTRAL_VALUES.items()):
        acted_on[name] = {"enum": [None, *values], "description": "Not supported otherwise."}
    body["additionalProperties"] = _NULL
    body["description"] = "OpenAI's chat completion, in a session or without one."
    parts = {"type": "array", "items": one_of([ref(TextPart), ref(ImagePart)])}
    message = {
        "type": "object",
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": any_of([{"type": "string"}, parts, _NULL]),
            **{name: {} for name in sorted(IGNORED_IN_MESSAGES)},
        },
        "required": ["role"],
        "additionalProperties": {"enum": [None, *EMPTY_VALUES]},
    }
    return {**schemas, CHAT_REQUEST: body, CHAT_MESSAGE: message}
