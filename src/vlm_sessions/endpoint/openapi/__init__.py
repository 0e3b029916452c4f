"""What the door takes and says, as an OpenAPI 3.1 document at ``/openapi.json``.

    document.py   paths, and the whole
    requests.py   bodies of requests, from the commands and the other dialects' models
    chat.py       … of OpenAI's chat, which is read field by field
    replies.py    bodies, headers and streams of successes, errors by their statuses
    schemas.py    pydantic's models as JSON Schema

It is made from the very models that read requests and write replies, and from the tree of errors.
"""

from vlm_sessions.endpoint.openapi.document import openapi_document, openapi_json

__all__ = ["openapi_document", "openapi_json"]
