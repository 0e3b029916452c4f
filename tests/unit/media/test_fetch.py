"""Images by URL, under guard, against a real server on the loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from tests.support.pictures import data_url, encoded
from vlm_sessions.config import Settings
from vlm_sessions.errors import (
    ImageForbidden,
    ImageUnreachable,
    InvalidField,
    PayloadTooLarge,
    VlmError,
)
from vlm_sessions.media.addresses import FetchPolicy
from vlm_sessions.media.fetch import ImageFetcher

CONTENT = encoded()

MakeFetcher = Callable[..., ImageFetcher]
"""Takes what host names resolve to, and settings."""


class FixedResolver(AbstractResolver):
    """Answers each question with the next of its addresses, the last one for ever."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def image(_: web.Request) -> web.Response:
        return web.Response(body=CONTENT, content_type="image/png")

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def loop(request: web.Request) -> web.Response:
        left = int(request.query["n"])
        raise web.HTTPFound(f"/loop?n={left - 1}" if left else "/image.png")

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(100_000))

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(1_100_000))

    async def echo(request: web.Request) -> web.Response:
        headers = {name.lower() for name in request.headers}
        return web.Response(text=",".join(sorted(headers)))

    app = web.Application()
    for path, handler in (
        ("/image.png", image),
        ("/redirect", redirect),
        ("/loop", loop),
        ("/slow", slow),
        ("/endless", endless),
        ("/large", large),
        ("/echo", echo),
    ):
        app.router.add_get(path, handler)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield server
    await server.close()


@pytest.fixture
async def make_fetcher() -> AsyncIterator[MakeFetcher]:
    fetchers: list[ImageFetcher] = []

    def make(*resolved: str, **settings: Any) -> ImageFetcher:
        defaults: dict[str, Any] = {"max_image_mb": 1, "fetch_allow": ("127.0.0.0/8",)}
        fetcher = ImageFetcher(
            Settings(**(defaults | settings)), lambda: FixedResolver(*(resolved or ("127.0.0.1",)))
        )
        fetchers.append(fetcher)
        return fetcher

    yield make
    for fetcher in fetchers:
        await fetcher.close()


def url(server: TestServer, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.port}{path}"


async def test_an_allowed_url_is_fetched_also_over_redirects(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    fetcher = make_fetcher()
    assert await fetcher.fetch(url(server, "/image.png")) == CONTENT
    assert await fetcher.fetch(url(server, "/image.png", "pictures.example")) == CONTENT
    assert await fetcher.fetch(url(server, "/loop?n=2")) == CONTENT


async def test_a_host_can_be_allowed_by_name_wherever_it_is(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    fetcher = make_fetcher(fetch_allow=("pictures.example",))
    assert await fetcher.fetch(url(server, "/image.png", "Pictures.Example")) == CONTENT
    with pytest.raises(ImageForbidden):
        await fetcher.fetch(url(server, "/image.png", "other.example"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "0"]
)
async def test_addresses_of_this_machine_are_refused(
    server: TestServer, make_fetcher: MakeFetcher, host: str
) -> None:
    with pytest.raises(ImageForbidden):
        await make_fetcher(fetch_allow=()).fetch(url(server, "/image.png", host))


async def test_names_that_resolve_to_private_addresses_are_refused(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"):
        with pytest.raises(ImageForbidden):
            await make_fetcher(address, fetch_allow=()).fetch(
                url(server, "/image.png", "evil.example")
            )


async def test_a_second_dns_answer_does_not_get_past_the_check(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    # The first answer is allowed, but nobody listens there; the second one would be the loopback.
    fetcher = make_fetcher("127.0.0.2", "127.0.0.1", fetch_allow=("127.0.0.2/32",))
    with pytest.raises(ImageUnreachable):
        await fetcher.fetch(url(server, "/image.png", "rebind.example"))
    with pytest.raises(ImageForbidden):
        await fetcher.fetch(url(server, "/image.png", "rebind.example"))


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://[::ffff:10.0.0.1]/", "http://169.254.169.254/latest", "file:///x"],
)
async def test_a_redirect_to_where_it_may_not_go_is_refused(
    server: TestServer, make_fetcher: MakeFetcher, target: str
) -> None:
    with pytest.raises(ImageForbidden):
        await make_fetcher().fetch(url(server, f"/redirect?to={target}"))


async def test_too_many_redirects_are_given_up(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    with pytest.raises(ImageUnreachable, match="redirects"):
        await make_fetcher().fetch(url(server, "/loop?n=3"))


async def test_a_slow_url_is_given_up_in_time(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    with pytest.raises(ImageUnreachable, match=r"0\.1 s"):
        await make_fetcher(fetch_timeout_seconds=0.1).fetch(url(server, "/slow"))


@pytest.mark.parametrize("path", ["/endless", "/large"])
async def test_a_body_without_end_or_measure_is_cut(
    server: TestServer, make_fetcher: MakeFetcher, path: str
) -> None:
    with pytest.raises(PayloadTooLarge):
        await make_fetcher().fetch(url(server, path))


async def test_an_unreachable_or_missing_image_says_so(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    fetcher = make_fetcher()
    with pytest.raises(ImageUnreachable, match="404"):
        await fetcher.fetch(url(server, "/none"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ImageUnreachable):
            await fetcher.fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/")


async def test_no_proxy_of_the_environment_is_used_and_nothing_private_is_sent(
    server: TestServer, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    sent = (await make_fetcher().fetch(url(server, "/echo"))).decode().split(",")
    assert set(sent) <= {"host", "accept", "accept-encoding", "connection", "user-agent"}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("s3://bucket/key.png", InvalidField),
        ("file:///etc/passwd", InvalidField),
        ("gopher://example.com/", InvalidField),
        ("not base64!", InvalidField),
        ("http://", InvalidField),
        ("http://user:secret@example.com/", ImageForbidden),
        ("data:image/png;base64", InvalidField),
        ("data:image/png;base64,!!!", InvalidField),
    ],
)
async def test_other_sources_are_refused(
    make_fetcher: MakeFetcher, source: str, error: type[VlmError]
) -> None:
    with pytest.raises(error) as refused:
        await make_fetcher().fetch(source)
    assert "secret" not in refused.value.message


async def test_data_urls_and_base64_are_decoded(make_fetcher: MakeFetcher) -> None:
    fetcher = make_fetcher()
    encoded_url = data_url(CONTENT)
    base64 = encoded_url.partition(",")[2]
    assert await fetcher.fetch(encoded_url) == CONTENT
    assert await fetcher.fetch(base64) == CONTENT
    assert await fetcher.fetch(base64.rstrip("=")) == CONTENT
    assert await fetcher.fetch("\n".join(base64[i : i + 76] for i in range(0, 999, 76))) == CONTENT
    assert await fetcher.fetch("data:,%41b") == b"Ab"
    with pytest.raises(PayloadTooLarge):
        await fetcher.fetch(data_url(bytes(1_100_000)))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "fec0::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "2001:0:7f00:1::1",
        "nonsense",
    ],
)
def test_only_the_public_internet_is_allowed(address: str) -> None:
    assert not FetchPolicy.from_allow_list(()).allows("host", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_the_public_internet_is_allowed(address: str) -> None:
    assert FetchPolicy.from_allow_list(()).allows("host", address)


def test_the_allow_list_takes_addresses_networks_and_names() -> None:
    policy = FetchPolicy.from_allow_list(("10.0.0.0/8", "fd00::/8", "::1", "Intern.Example."))
    assert policy.allows("x", "10.9.9.9")
    assert policy.allows("x", "fd00::7")
    assert policy.allows("x", "::1")
    assert policy.allows("intern.example", "192.168.0.1")
    assert not policy.allows("x", "192.168.0.1")
