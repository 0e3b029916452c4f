"""Over boto3's ``sagemaker-runtime``. boto3 is imported only when this is used.

SageMaker answers 424 for every error of a container and puts the container's own status and body
into ``OriginalStatusCode`` and ``OriginalMessage``; these become the reply here, so that a caller
meets the same exceptions on either road. It passes no headers on: there is no ``Retry-After``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from vlm_sessions.client.errors import ClientError, ConnectionFailed, TimedOut
from vlm_sessions.client.transport import AsyncStreamReply, StreamReply
from vlm_sessions.client.wire import Reply, Request, session_id_of_header

if TYPE_CHECKING:
    from botocore.exceptions import ClientError as BotoClientError

NEW_SESSION = "NEW_SESSION"


class SageMakerTransport:
    """Args:
    endpoint: name of the endpoint.
    runtime: a boto3 ``sagemaker-runtime`` client, if its region, credentials or retries are to
        be other than the environment's. boto3's own retries would send a prompt twice; the
        client made here has none.
    timeout: seconds without a single byte after which a request is given up.
    """

    def __init__(self, endpoint: str, timeout: float, runtime: Any = None) -> None:
        self._endpoint = endpoint
        self._runtime = runtime if runtime is not None else _runtime(timeout)

    def send(self, request: Request) -> Reply:
        with _translated(self._endpoint):
            try:
                response = self._runtime.invoke_endpoint(**self._arguments(request))
            except self._runtime.exceptions.ModelError as exc:
                return _error_reply(exc)
            return Reply(
                status=200,
                body=response["Body"].read(),
                session_id=session_id_of_header(response.get("NewSessionId")),
            )

    @contextmanager
    def stream(self, request: Request) -> Iterator[StreamReply]:
        with _translated(self._endpoint):
            response = self._start_stream(request)
        if isinstance(response, Reply):
            yield StreamReply(response.status, iter((response.body,)))
            return
        try:
            yield StreamReply(200, self._payloads(response))
        finally:
            response.close()

    def close(self) -> None:
        self._runtime.close()

    def _start_stream(self, request: Request) -> Any:
        """botocore's ``EventStream``, or the container's error as a ``Reply``."""
        try:
            return self._runtime.invoke_endpoint_with_response_stream(**self._arguments(request))[
                "Body"
            ]
        except self._runtime.exceptions.ModelError as exc:
            return _error_reply(exc)

    def _payloads(self, body: Any) -> Iterator[bytes]:
        with _translated(self._endpoint):
            for event in body:
                yield event["PayloadPart"]["Bytes"]

    def _arguments(self, request: Request) -> dict[str, object]:
        arguments: dict[str, object] = {
            "EndpointName": self._endpoint,
            "ContentType": "application/json",
            "Body": request.body,
        }
        session_id = NEW_SESSION if request.opens else request.session_id
        if session_id is not None:
            arguments["SessionId"] = session_id
        return arguments


class AsyncSageMakerTransport:
    """The same in threads, since boto3 has no asynchronous door."""

    def __init__(self, endpoint: str, timeout: float, runtime: Any = None) -> None:
        self._transport = SageMakerTransport(endpoint, timeout, runtime)

    async def send(self, request: Request) -> Reply:
        return await asyncio.to_thread(self._transport.send, request)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncStreamReply]:
        context = self._transport.stream(request)
        reply = await asyncio.to_thread(context.__enter__)
        try:
            yield AsyncStreamReply(reply.status, _in_thread(reply.chunks), reply.retry_after)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def close(self) -> None:
        await asyncio.to_thread(self._transport.close)


def _runtime(timeout: float) -> Any:
    try:
        import boto3  # noqa: PLC0415 - an extra of the package, and slow to import
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as exc:
        raise ClientError(
            "SageMaker needs boto3: pip install 'vlm-sessions[sagemaker]'", code="boto3_missing"
        ) from exc
    config = Config(read_timeout=timeout, retries={"total_max_attempts": 1})
    return boto3.client("sagemaker-runtime", config=config)


async def _in_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _error_reply(exc: BotoClientError) -> Reply:
    response = exc.response
    return Reply(
        status=response.get("OriginalStatusCode", 500),
        body=response.get("OriginalMessage", str(exc)).encode(),
    )


@contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    from botocore import exceptions as boto  # noqa: PLC0415 - see _runtime

    try:
        yield
    except (boto.ReadTimeoutError, boto.ConnectTimeoutError) as exc:
        raise TimedOut(f"no reply from SageMaker's endpoint {endpoint} in time") from exc
    except (boto.HTTPClientError, boto.EventStreamError) as exc:
        raise ConnectionFailed(f"the connection to endpoint {endpoint} failed: {exc}") from exc
    except boto.ClientError as exc:
        raise _refused_by_aws(exc, endpoint) from exc
    except boto.BotoCoreError as exc:
        raise ClientError(f"boto3 could not call {endpoint}: {exc}", code="boto3") from exc


def _refused_by_aws(exc: BotoClientError, endpoint: str) -> ClientError:
    """AWS itself refused: no such endpoint, no permission, throttled. The container saw nothing."""
    error = exc.response.get("Error", {})
    return ClientError(
        f"SageMaker refused the call of {endpoint}: {error.get('Message', exc)}",
        code=str(error.get("Code", "boto3")),
        status=exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
    )
