"""A client of the service: ``Client`` and its asynchronous twin ``AsyncClient``.

    Client, AsyncClient      waiting: the two thin shells (sync, aio)
    ───────────────────
    wire, images             what is sent        ┐
    replies, answers, sse    what is understood  ├ no I/O
    retry, errors, types                         ┘
    ───────────────────
    http, sagemaker          what carries it (behind transport)

It imports the standard library, httpx, and boto3 once it is asked for; nothing of the server.
"""

from vlm_sessions.client.aio import AsyncAnswerStream, AsyncClient, AsyncSession
from vlm_sessions.client.errors import (
    Busy,
    ClientError,
    ConnectionFailed,
    ConversationConflict,
    ImageNotReadable,
    InvalidKey,
    InvalidRequest,
    NotAuthorized,
    ProtocolError,
    ServiceError,
    ServiceFailed,
    ServiceUnavailable,
    SessionEnded,
    TimedOut,
)
from vlm_sessions.client.retry import RetryPolicy
from vlm_sessions.client.sync import AnswerStream, Client, Session
from vlm_sessions.client.types import Answer, Description, ImageInfo, Timing, Usage

__all__ = [
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncClient",
    "AsyncSession",
    "Busy",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "ConversationConflict",
    "Description",
    "ImageInfo",
    "ImageNotReadable",
    "InvalidKey",
    "InvalidRequest",
    "NotAuthorized",
    "ProtocolError",
    "RetryPolicy",
    "ServiceError",
    "ServiceFailed",
    "ServiceUnavailable",
    "Session",
    "SessionEnded",
    "TimedOut",
    "Timing",
    "Usage",
]
