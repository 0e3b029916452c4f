"""Sessions as a service: open, prompt, close. The one meeting place of record, media and engine."""

from vlm_sessions.service.answers import AnswerStream
from vlm_sessions.service.service import SessionService

__all__ = ["AnswerStream", "SessionService"]
