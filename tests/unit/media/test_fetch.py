"""Images by URL, under guard, against a real server on the loopback."""

import asyncio
import base64
import json
import socket
import threading
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
from vlm_sessions.media.fetch import CHUNK_BYTES, MAX_URL_CHARS, ImageFetcher
from vlm_sessions.media.resolver import SystemResolver

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


class BothResolver(FixedResolver):
    """Answers each question with all of its addresses."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        each = [FixedResolver(address) for address in self.addresses]
        return [(await one.resolve(host, port, family))[0] for one in each]


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
        return web.json_response({name.lower(): value for name, value in request.headers.items()})

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

    def make(
        *resolved: str, resolver: AbstractResolver | None = None, **settings: Any
    ) -> ImageFetcher:
        defaults: dict[str, Any] = {"max_image_mb": 1, "fetch_allow": ("127.0.0.0/8",)}
        fetcher = ImageFetcher(
            Settings(**(defaults | settings)),
            lambda: resolver or FixedResolver(*(resolved or ("127.0.0.1",))),
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
    "host",
    [
        *("127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *("2130706433", "017700000001", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0"),
        *("127.0.0.1.", "127.0.0.1..", "127.0.0.1...", "127.0.0.1%2e", "%31%32%37.0.0.1"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.０.０.１", "١٢٧.٠.٠.١", "[::1%25lo]"),
        *("127.0.0.1:80@127.0.0.1", "8.8.8.8@127.0.0.1", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    ],
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


@pytest.mark.parametrize("host", ["[v1.a:b.evil.example]", "[x:y]"])
async def test_a_name_in_brackets_is_not_taken_for_an_address(
    make_fetcher: MakeFetcher, host: str
) -> None:
    # The connector would pass it to the system's resolver, whose answer nobody checks.
    with pytest.raises(ImageForbidden, match="in full"):
        await make_fetcher().fetch(f"http://{host}/image.png")


async def test_of_several_addresses_only_the_allowed_ones_are_tried(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    resolver = BothResolver("10.0.0.1", "127.0.0.1", "::1")
    fetcher = make_fetcher(fetch_allow=("127.0.0.1/32",), resolver=resolver)
    assert await fetcher.fetch(url(server, "/image.png", "mixed.example")) == CONTENT
    with pytest.raises(ImageForbidden):
        await make_fetcher(fetch_allow=(), resolver=resolver).fetch(
            url(server, "/image.png", "mixed.example")
        )


async def test_names_that_do_not_resolve_hold_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def hang(host: str, port: int, **_: object) -> list[object]:
        answered.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    resolver = SystemResolver()
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    hanging = [asyncio.ensure_future(resolver.resolve(f"{n}.example", 80)) for n in range(40)]
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(len, "decoded") == 7
    finally:
        answered.set()
    for found in await asyncio.gather(*hanging):
        assert [one["host"] for one in found] == ["192.0.2.1"]
    await resolver.close()


async def test_base64_longer_than_a_piece_is_put_together_again(make_fetcher: MakeFetcher) -> None:
    content = bytes(range(256)) * 700
    text = base64.b64encode(content).decode()
    assert len(text) > 3 * CHUNK_BYTES
    assert await make_fetcher().fetch(text) == content
    assert await make_fetcher().fetch(text[: CHUNK_BYTES + 7] + "\r\n" + text[CHUNK_BYTES + 7 :])
    with pytest.raises(InvalidField):
        await make_fetcher().fetch(text[: CHUNK_BYTES - 2] + "==" + text[CHUNK_BYTES:])


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest",
        "file:///x",
        "http://user:secret@example.com/",
    ],
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
    sent = json.loads(await make_fetcher().fetch(url(server, "/echo")))
    assert set(sent) <= {"host", "accept", "accept-encoding", "connection", "user-agent"}


async def test_no_compression_is_asked_for_since_none_is_unpacked(
    server: TestServer, make_fetcher: MakeFetcher
) -> None:
    sent = json.loads(await make_fetcher().fetch(url(server, "/echo")))
    assert sent["accept-encoding"] == "identity"


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
        ("QQ==QQ==", InvalidField),
        ("http://example.com/" + "x" * MAX_URL_CHARS, InvalidField),
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
    text = encoded_url.partition(",")[2]
    assert await fetcher.fetch(encoded_url) == CONTENT
    assert await fetcher.fetch(text) == CONTENT
    assert await fetcher.fetch(text.rstrip("=")) == CONTENT
    assert await fetcher.fetch("\n".join(text[i : i + 76] for i in range(0, 999, 76))) == CONTENT
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
        "192.0.0.192",  # Oracle's metadata service; Python 3.11.7 takes it for public
        "100.100.100.200",  # Alibaba's
        "0.1.2.3",
        "203.0.113.1",
        "192.88.99.1",
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
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::6440:1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "::ffff:0:10.0.0.1",
        "::169.254.169.254",
        "2002:a00:1::1",
        "2002:c0a8:101::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo's client at 127.0.0.1
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "3fff::1",
        "4000::1",
        "100::1",
        "fd00:ec2::254%eth0",
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
