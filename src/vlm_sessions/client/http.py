"""Over HTTP, with httpx. Its exceptions are translated here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx

from vlm_sessions.client.errors import ConnectionFailed, InvalidKey, TimedOut
from vlm_sessions.client.transport import AsyncStreamReply, StreamReply
from vlm_sessions.client.wire import Reply, Request, session_id_of_header

SESSION_HEADER = "X-Amzn-SageMaker-Session-Id"
CONNECT_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class HttpTransport:
    """Args:
    url: of the service, e.g. ``http://127.0.0.1:8080``.
    timeout: seconds without a single byte after which a request is given up.
    api_key: sent with every request.

    Raises:
        InvalidKey: it cannot be in a header.
    """

    def __init__(self, url: str, timeout: float, api_key: str | None = None) -> None:
        self._url = _invocations(url)
        mounts: dict[str, httpx.BaseTransport | None] = dict.fromkeys(_loopback_patterns())
        self._http = httpx.Client(
            timeout=_timeouts(timeout), mounts=mounts, headers=_authorization(api_key)
        )

    def send(self, request: Request) -> Reply:
        with _translated(self._url):
            response = self._http.post(self._url, content=request.body, headers=_headers(request))
            return _reply(response)

    @contextmanager
    def stream(self, request: Request) -> Iterator[StreamReply]:
        with (
            _translated(self._url),
            self._http.stream(
                "POST", self._url, content=request.body, headers=_headers(request)
            ) as response,
        ):
            yield StreamReply(
                response.status_code, response.iter_bytes(), _retry_after(response.headers)
            )

    def close(self) -> None:
        self._http.close()


class AsyncHttpTransport:
    """As ``HttpTransport``."""

    def __init__(self, url: str, timeout: float, api_key: str | None = None) -> None:
        self._url = _invocations(url)
        mounts: dict[str, httpx.AsyncBaseTransport | None] = dict.fromkeys(_loopback_patterns())
        self._http = httpx.AsyncClient(
            timeout=_timeouts(timeout), mounts=mounts, headers=_authorization(api_key)
        )

    async def send(self, request: Request) -> Reply:
        with _translated(self._url):
            response = await self._http.post(
                self._url, content=request.body, headers=_headers(request)
            )
            return _reply(response)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncStreamReply]:
        with _translated(self._url):
            async with self._http.stream(
                "POST", self._url, content=request.body, headers=_headers(request)
            ) as response:
                yield AsyncStreamReply(
                    response.status_code, response.aiter_bytes(), _retry_after(response.headers)
                )

    async def close(self) -> None:
        await self._http.aclose()


def _invocations(url: str) -> str:
    return url.rstrip("/") + "/invocations"


def _loopback_patterns() -> tuple[str, ...]:
    """Never through a proxy: an ``HTTP_PROXY`` of the environment cannot reach this machine."""
    return tuple(f"all://{host}" for host in LOOPBACK)


def _timeouts(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def _authorization(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise InvalidKey  # without the key: what is raised is printed and logged
    return {"Authorization": f"Bearer {api_key}"}


def _headers(request: Request) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if request.session_id is not None:
        headers[SESSION_HEADER] = request.session_id
    return headers


def _reply(response: httpx.Response) -> Reply:
    return Reply(
        status=response.status_code,
        body=response.content,
        retry_after=_retry_after(response.headers),
        session_id=session_id_of_header(response.headers.get(SESSION_HEADER)),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The service sends seconds; a date, as proxies may send, counts as none."""
    try:
        return float(headers["Retry-After"])
    except (KeyError, ValueError):
        return None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as exc:
        raise TimedOut(f"no reply from {url} in time") from exc
    except httpx.ConnectError as exc:
        raise ConnectionFailed(f"cannot reach {url}: is the service running there?") from exc
    except (httpx.TransportError, httpx.InvalidURL) as exc:
        raise ConnectionFailed(f"the connection to {url} failed: {exc}") from exc
