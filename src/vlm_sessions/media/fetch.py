"""Encoded images from wherever a request names them: URL, data URL, base64, or the bytes.

URLs are fetched under guard. Host names are resolved by a resolver of ours that gives the connector
only addresses the policy allows, so that the address which was checked is the one connected to, and
a second DNS answer changes nothing. Redirects are followed by hand, each checked like the first.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    ImageForbidden,
    ImageUnreachable,
    InvalidField,
    PayloadTooLarge,
    VlmError,
)
from vlm_sessions.media.addresses import FetchPolicy
from vlm_sessions.media.resolver import GuardedResolver, Refused, SystemResolver

MAX_REDIRECTS = 3
MAX_URL_CHARS = 8192
"""What web servers take, and more than any presigned URL has."""
CHUNK_BYTES = 64 * 1024
MIB = 1024 * 1024

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}):")
_NUMERIC_HOST = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.*$")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FORBIDDEN = (
    "This URL leads to an address inside a private network, which the service does not fetch. "
    "Send the image itself, or have the operator list the host in VLM_FETCH_ALLOW."
)


class ImageFetcher:
    """Gives the bytes that a request's image stands for. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        resolver_factory: Callable[[], AbstractResolver] = SystemResolver,
    ) -> None:
        self._policy = FetchPolicy.from_allow_list(settings.fetch_allow)
        self._max_bytes = settings.max_image_mb * MIB
        self._timeout_seconds = settings.fetch_timeout_seconds
        self._resolver_factory = resolver_factory
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, source: str) -> bytes:
        """The bytes behind ``source``: an http(s) URL, a data URL, or plain base64.

        Raises:
            InvalidField: neither of them.
            ImageForbidden: the URL may not be fetched.
            ImageUnreachable: the URL could not be fetched in time.
            PayloadTooLarge: more bytes than an image may have.
        """
        scheme = _SCHEME.match(source)
        match scheme.group(1).lower() if scheme else None:
            case None:
                return await _off_the_loop(self.decode_base64, source)
            case "data":
                return await _off_the_loop(self._decode_data_url, source)
            case "http" | "https":
                return await self._download(source)
            case "s3":
                raise InvalidField(
                    "s3:// images are not supported. Send the image itself, or a presigned "
                    "https:// URL."
                )
            case _:
                raise InvalidField(
                    "An image must be an http(s) URL, a data URL or base64; other schemes are "
                    "not supported."
                )

    def decode_base64(self, text: str) -> bytes:
        """The bytes that base64 ``text`` stands for; whitespace is ignored.

        Raises:
            InvalidField: it is not base64.
            PayloadTooLarge: more bytes than an image may have.
        """
        if len(text) * 3 // 4 > self._max_bytes * 1.1:
            raise self._too_large()
        try:
            content = _decode_in_pieces(text)
        except ValueError as exc:
            raise InvalidField(
                "An image is neither a URL nor valid base64. Send an http(s) URL, a data URL, or "
                '{"data": base64}.'
            ) from exc
        return self.check_size(content)

    def check_size(self, content: bytes) -> bytes:
        """Return ``content`` if it is not too large.

        Raises:
            PayloadTooLarge: it is.
        """
        if len(content) > self._max_bytes:
            raise self._too_large()
        return content

    def _decode_data_url(self, source: str) -> bytes:
        header, comma, data = source.partition(",")
        if not comma:
            raise InvalidField("A data URL must look like data:image/png;base64,… .")
        if header.lower().endswith(";base64"):
            return self.decode_base64(data.replace("%2B", "+").replace("%2F", "/"))
        if len(data) > self._max_bytes * 3:
            raise self._too_large()
        return self.check_size(unquote_to_bytes(data))

    async def _download(self, source: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._follow(self._parse(source))
        except TimeoutError as exc:
            raise ImageUnreachable(
                f"The image's URL did not answer completely within {self._timeout_seconds:g} s. "
                "Send the image itself, or a faster URL."
            ) from exc
        except Refused as exc:
            raise ImageForbidden(_FORBIDDEN) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            cause: BaseException | None = exc
            while cause is not None:  # the connector wraps what our resolver raises
                if isinstance(cause, Refused):
                    raise ImageForbidden(_FORBIDDEN) from exc
                cause = cause.__cause__
            raise ImageUnreachable(
                f"The image's URL could not be fetched ({type(exc).__name__}). Check that it "
                "is spelt correctly and open to everyone, or send the image itself."
            ) from exc

    async def _follow(self, url: URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            # Redirects are followed here, each one checked. Cookies and proxies are never used.
            async with self._client().get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    location = response.headers.get("Location")
                    if not location:
                        raise ImageUnreachable("The image's URL redirects to nowhere.")
                    url = self._parse(str(url.join(URL(location))))
                    continue
                return await self._read(response)
        raise ImageUnreachable(
            f"The image's URL redirects more than {MAX_REDIRECTS} times. Send the final URL."
        )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise ImageUnreachable(
                f"The image's URL answered {response.status}. Check that it is open to everyone, "
                "or send the image itself."
            )
        if response.content_length is not None and response.content_length > self._max_bytes:
            raise self._too_large()
        content = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            content += chunk
            if len(content) > self._max_bytes:  # whatever the header promised
                raise self._too_large()
        return bytes(content)

    def _parse(self, source: str) -> URL:
        if len(source) > MAX_URL_CHARS:
            raise InvalidField(
                f"An image's URL has {len(source)} characters, the limit is {MAX_URL_CHARS}. "
                "Send the image itself."
            )
        try:
            url = URL(source)
        except ValueError as exc:
            raise InvalidField("An image's URL is malformed.") from exc
        if url.scheme not in ("http", "https"):
            raise ImageForbidden("An image's URL may only lead to http:// and https:// addresses.")
        if not url.host:
            raise InvalidField("An image's URL names no host.")
        if url.user is not None or url.password is not None:
            raise ImageForbidden(
                "An image's URL must not contain a user name or password. Send the image itself, "
                "or a presigned URL."
            )
        return url

    def _check(self, url: URL) -> None:
        """Addresses given as numbers never reach the resolver, so they are checked here."""
        host = url.host or ""
        if _is_address(host):
            if not self._policy.allows(host, host):
                raise ImageForbidden(_FORBIDDEN)
        elif ":" in host or _NUMERIC_HOST.search(host):
            # 2130706433, 0x7f.1 or 127.1: system resolvers read them as addresses. A name with a
            # colon, as in [v1.a:b], passes for an address with the connector, which would then have
            # it resolved behind our resolver's back.
            raise ImageForbidden("An image's URL must write an address in full, as 192.0.2.1.")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = GuardedResolver(self._resolver_factory(), self._policy)
            self._session = aiohttp.ClientSession(
                # No DNS cache and no kept connections: each fetch is resolved, checked, connected.
                connector=aiohttp.TCPConnector(
                    resolver=resolver, use_dns_cache=False, force_close=True, limit=32
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A proxy of the environment would connect on our behalf, past the guard.
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
                # What is counted is what arrives; a compressed body could be a bomb, so none is
                # asked for and none unpacked.
                headers={
                    "User-Agent": "vlm-sessions",
                    "Accept": "image/*",
                    "Accept-Encoding": "identity",
                },
                auto_decompress=False,
            )
        return self._session

    def _too_large(self) -> VlmError:
        return PayloadTooLarge(
            f"An image is larger than {self._max_bytes // MIB} MiB, which is the limit. "
            "Send a smaller one; VLM_MAX_IMAGE_MB raises the limit."
        )


async def _off_the_loop(decode: Callable[[str], bytes], source: str) -> bytes:
    """Decode in a thread what would hold the event loop up."""
    return await asyncio.to_thread(decode, source) if len(source) > CHUNK_BYTES else decode(source)


def _decode_in_pieces(text: str) -> bytes:
    """Base64 with or without padding and white space. One call for all of it would keep the event
    loop from running for a tenth of a second, in whatever thread it is made: it holds the GIL.

    Raises:
        ValueError: not base64.
    """
    compact = "".join(text.split()) if any(space in text for space in " \r\n\t") else text
    padded = compact + "=" * (-len(compact) % 4)  # some encoders leave it out
    if "=" in padded[:-4]:
        raise ValueError("padding amid the data")
    pieces = (padded[at : at + CHUNK_BYTES] for at in range(0, len(padded), CHUNK_BYTES))
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def _is_address(host: str) -> bool:
    """Whether the connector would take ``host`` as an address, without asking the resolver."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
