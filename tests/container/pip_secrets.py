"""This machine's pip settings as build secrets, so that the build reaches what the machine does."""

from __future__ import annotations

import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

_KEPT = ("index-url", "extra-index-url", "find-links", "trusted-host")


@contextmanager
def pip_secrets(work: Path) -> Iterator[list[str]]:
    """Arguments for ``docker build --network=host``.

    A folder of wheels is served on loopback meanwhile. An index that is a folder is left out: the
    pinned versions are all in the index that pip asks first.
    """
    with ExitStack() as servers:
        lines = ["[global]", "timeout = 180"]
        for name, value in _settings().items():
            places = [_reachable(place, servers) for place in value.split()]
            lines.append(f"{name} = {' '.join(place for place in places if place)}")
        config = work / "pip.conf"
        config.write_text("\n".join(lines) + "\n")
        arguments = ["--secret", f"id=pipconf,src={config}"]
        if certificates := _certificates():
            arguments += ["--secret", f"id=ca,src={certificates}"]
        yield arguments


def _settings() -> dict[str, str]:
    """pip's own view; its environment variables win over its files."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings: dict[str, str] = {}
    for line in said.stdout.splitlines():  # global.find-links='/wheels' or :env:.find-links='…'
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if name in _KEPT and section in ("global", "install", ":env:"):
            settings[name] = value.strip("'")
    return settings


def _reachable(place: str, servers: ExitStack) -> str:
    if place.startswith("file:"):
        return ""
    if Path(place).is_dir():
        return servers.enter_context(_served(Path(place)))
    return place


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
        pass


def _certificates() -> str | None:
    for name in ("PIP_CERT", "SSL_CERT_FILE"):
        if os.environ.get(name):
            return os.environ[name]
    return ssl.get_default_verify_paths().cafile
