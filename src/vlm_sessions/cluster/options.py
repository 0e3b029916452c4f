"""What the two commands are told, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError

DEFAULT_HOLD_SECONDS = 40.0
"""SageMaker gives up after 60 s."""
DEFAULT_AWAY_SECONDS = 300.0
"""Large models take minutes to load."""
MAX_REPLICAS = 64
_MAX_PORT = 65535

# A host name or an IP address, of version 6 in brackets. Nothing else may get into HAProxy's file.
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Member:
    """A replica or a peer: ``address`` is ``HOST:PORT``, ``name`` what HAProxy calls it."""

    name: str
    address: str

    @property
    def number(self) -> int:
        """HAProxy's id of the server, by which routers tell each other who owns a session.

        It follows from the name alone, so that routers agree whatever the order of their replicas,
        and also while one of them already knows of one more.
        """
        return crc32(self.name.encode()) & 0x7FFF_FFFF or 1

    @property
    def has_host_name(self) -> bool:
        """Whether its address is to be looked up, again and again."""
        host = self.address.rpartition(":")[0]
        return not host.startswith("[") and re.fullmatch(r"[0-9.]+", host) is None


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """One router.

    Args:
        settings: for the public address, and for the longest that a reply may take.
        replicas: at least one; every router of a group must call them the same.
        hold_seconds: how long a request may wait for a replica that restarts.
        away_seconds: how long a replica may be gone for a restart; then its sessions are lost.
        name: its own among its peers.
        listen_peer: where its peers reach it, ``None`` without peers.
        peers: the other routers.
        admin_socket: path of HAProxy's runtime socket; ``None``: in a private directory.
    """

    settings: Settings
    replicas: tuple[Member, ...]
    hold_seconds: float = DEFAULT_HOLD_SECONDS
    away_seconds: float = DEFAULT_AWAY_SECONDS
    name: str = "router"
    listen_peer: str | None = None
    peers: tuple[Member, ...] = ()
    admin_socket: Path | None = None

    def __post_init__(self) -> None:
        if not self.replicas:
            raise ConfigError("A router needs replicas: give --replica HOST:PORT for each.")
        if len(self.replicas) > MAX_REPLICAS:
            raise ConfigError(
                f"{len(self.replicas)} times --replica; a router takes at most {MAX_REPLICAS}."
            )
        _check_unique("--replica", self.replicas)
        _check_unique("--peer", self.peers)
        if len({replica.number for replica in self.replicas}) < len(self.replicas):
            raise ConfigError("Two replicas' names have the same checksum: rename one of them.")
        _check_seconds("--hold-seconds", self.hold_seconds)
        _check_seconds("--away-seconds", self.away_seconds)
        _check_name("--name", self.name)
        if self.peers and self.listen_peer is None:
            raise ConfigError("--peer needs --listen-peer HOST:PORT, where that peer reaches us.")
        if any(peer.name == self.name for peer in self.peers):
            raise ConfigError(
                f"A peer is called {self.name}, like this router. Give --name another name."
            )

    @classmethod
    def parse(
        cls,
        settings: Settings,
        *,
        replicas: Sequence[str],
        hold_seconds: float,
        away_seconds: float,
        name: str,
        listen_peer: str | None,
        peers: Sequence[str],
        admin_socket: Path | None,
    ) -> RouterOptions:
        """From the words of a command line.

        Raises:
            ConfigError: one of them is wrong; the message names it.
        """
        return cls(
            settings,
            tuple(_member("--replica", text) for text in replicas),
            hold_seconds,
            away_seconds,
            name,
            None if listen_peer is None else _address("--listen-peer", listen_peer),
            tuple(_named_member("--peer", text) for text in peers),
            admin_socket,
        )


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Replicas and routers on this machine; the first router has ``settings.port``, others follow.

    Raises:
        ConfigError: a number is out of range.
    """

    settings: Settings
    num_replicas: int
    num_routers: int = 1
    hold_seconds: float = DEFAULT_HOLD_SECONDS
    away_seconds: float = DEFAULT_AWAY_SECONDS

    def __post_init__(self) -> None:
        if not 1 <= self.num_replicas <= MAX_REPLICAS:
            raise ConfigError(
                f"--replicas is {self.num_replicas}; give a number from 1 to {MAX_REPLICAS}."
            )
        if self.num_routers < 1:
            raise ConfigError(f"--routers is {self.num_routers}; give at least 1.")
        if self.settings.port + self.num_routers - 1 > _MAX_PORT:
            raise ConfigError(
                f"--routers {self.num_routers} from port {self.settings.port} on would pass "
                f"{_MAX_PORT}. Give a lower --port."
            )
        _check_seconds("--hold-seconds", self.hold_seconds)
        _check_seconds("--away-seconds", self.away_seconds)


def _member(option: str, text: str) -> Member:
    """``HOST:PORT``, which is then the name as well, or ``NAME=HOST:PORT``."""
    if "=" in text:
        return _named_member(option, text)
    address = _address(option, text)
    return Member(address.translate({ord("["): None, ord("]"): None}), address)


def _named_member(option: str, text: str) -> Member:
    name, equals, address = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} {text!r} has no name; write NAME=HOST:PORT.")
    _check_name(option, name)
    return Member(name, _address(option, address))


def _address(option: str, text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= _MAX_PORT:
        raise ConfigError(
            f"{option} {text!r} is not an address; write HOST:PORT, such as 127.0.0.1:8081."
        )
    return text


def _check_name(option: str, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{option} {name!r} is not a name: letters and digits, and inner '-', '_' and '.'."
        )


def _check_unique(option: str, members: Iterable[Member]) -> None:
    seen: set[str] = set()
    for member in members:
        for text in {member.name, member.address}:
            if text in seen:
                raise ConfigError(f"{option} {text} is given twice. Leave one out.")
            seen.add(text)


def _check_seconds(option: str, seconds: float) -> None:
    if not 0 <= seconds <= 3600:
        raise ConfigError(f"{option} is {seconds:g}; give 0 to 3600.")
