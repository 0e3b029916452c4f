"""Bodies of requests: the commands, AWS's guide and sample, images; OpenAI's chat in ``chat``.

Each dialect says what becomes of ``session_id`` and of ``null``, and so does its description.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlm_sessions.endpoint.openapi.chat import CHAT_REQUEST, chat_schemas
from vlm_sessions.endpoint.openapi.schemas import Schema, one_of, ref, schemas_of, told_apart
from vlm_sessions.media.decode import CONTENT_TYPES
from vlm_sessions.protocol import headers
from vlm_sessions.protocol.dialects.guide import COMMANDS as GUIDE_COMMANDS
from vlm_sessions.protocol.dialects.native import COMMANDS
from vlm_sessions.protocol.dialects.sample import (
    SampleCloseSession,
    SendTextPrompt,
    StartSession,
)
from vlm_sessions.protocol.schema import CloseSession, Generate, OpenSession, RawImage

NATIVE_REQUEST, GUIDE_REQUEST = "NativeRequest", "GuideRequest"
SAMPLE_REQUESTS = (StartSession, SendTextPrompt, SampleCloseSession)

SESSION_PARAMETER: Schema = {
    "name": headers.SESSION_ID,
    "in": "header",
    "description": f"The session. Absent, empty and {headers.NEW_SESSION} name none.",
    "schema": {
        "type": "string",
        "pattern": f"^({headers.NEW_SESSION}|{headers.SESSION_ID_PATTERN})?$",
        "maxLength": headers.MAX_SESSION_ID_CHARS,
    },
}

_REPEATED_ID: Schema = {
    "type": ["string", "null"],
    "description": "If given, the id that the header names.",
}
_NO_ID: Schema = {"type": "null"}
# A body that names a session closes it in the sample's words; these two have none to name.
_WITHOUT_ID = frozenset(model.__name__ for model in (OpenSession, Generate, CloseSession))


def request_schemas() -> dict[str, Schema]:
    """Name -> schema."""
    return {
        **_native_schemas(),
        **_sample_schemas(),
        GUIDE_REQUEST: _guide_schema(),
        **chat_schemas(),
    }


def invocation_bodies() -> Mapping[str, Schema]:
    """Content type -> what ``/invocations`` takes of it."""
    dialects = [
        ref(NATIVE_REQUEST),
        *(ref(model) for model in SAMPLE_REQUESTS),
        ref(GUIDE_REQUEST),
        ref(CHAT_REQUEST),
    ]
    image = {"type": "string", "format": "binary", "description": "Opens a session with it."}
    return {
        "application/json": {"schema": one_of(dialects)},
        **{content_type: {"schema": image} for content_type in CONTENT_TYPES},
    }


def _native_schemas() -> dict[str, Schema]:
    schemas = schemas_of(COMMANDS.values(), "validation")
    del schemas[RawImage.__name__]  # comes as a body, and never within one
    for model in COMMANDS.values():
        name = model.__name__
        schemas[name]["properties"]["session_id"] = _NO_ID if name in _WITHOUT_ID else _REPEATED_ID
    return {**schemas, NATIVE_REQUEST: told_apart("type", COMMANDS)}


def _sample_schemas() -> dict[str, Schema]:
    schemas = schemas_of(SAMPLE_REQUESTS, "validation")
    for schema in schemas.values():
        schema["properties"]["session_id"] = _REPEATED_ID
        schema["additionalProperties"] = {"type": "null"}  # its serializer's absent fields
    schemas[StartSession.__name__]["properties"]["session_id"] = _NO_ID
    closing = schemas[SampleCloseSession.__name__]
    closing["properties"]["session_id"] = {**_REPEATED_ID, "type": "string"}
    closing["required"].append("session_id")
    return schemas


def _guide_schema() -> Schema:
    return {
        "type": "object",
        "description": "AWS's developer guide, DJL/LMI and vLLM's containers.",
        "properties": {"requestType": {"enum": list(GUIDE_COMMANDS)}},
        "required": ["requestType"],
        "additionalProperties": False,
    }
