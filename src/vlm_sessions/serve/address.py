"""The public address: as the edge binds it, and as a person on this machine reaches it."""

from __future__ import annotations

from vlm_sessions.config import Settings

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on that are none to connect to -> one that reaches them from here."""


def without_brackets(host: str) -> str:
    """An IPv6 address may come in them, as in a URL."""
    return host.removeprefix("[").removesuffix("]")


def reachable_host(settings: Settings) -> str:
    """An address of this machine that reaches the service."""
    host = without_brackets(settings.host)
    return _EVERYWHERE.get(host, host)


def bind_address(settings: Settings) -> str:
    """``host:port`` for HAProxy."""
    return _join(without_brackets(settings.host), settings.port)


def reachable_url(settings: Settings) -> str:
    """For the ready line: pasted on this machine, it works."""
    return f"http://{_join(reachable_host(settings), settings.port)}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
