"""The door: HTTP requests in, HTTP replies out, whatever happens behind it."""

from vlm_sessions.endpoint.endpoint import Endpoint
from vlm_sessions.endpoint.ports import AnswerStream, Service

__all__ = ["AnswerStream", "Endpoint", "Service"]
