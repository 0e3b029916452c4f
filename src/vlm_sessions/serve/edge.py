"""HAProxy, the edge: its configuration, its check, its start."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vlm_sessions import errors
from vlm_sessions.config import Settings
from vlm_sessions.serve.address import bind_address, reachable_host, without_brackets
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.run_dir import RunDir
from vlm_sessions.serve.watchdog import HTTP_OK

CONFIG_FILE = "haproxy.cfg"
_MIB = 1024 * 1024
MAX_CONNECTIONS = 8192
_OTHER_FILES = 256
"""What HAProxy opens besides its connections, on a machine of many cores."""
MAX_HEADER_BYTES = 7000
"""TorchServe's front end takes 8192, of which what the edge adds is a part."""
HEADER_SECONDS = 10
CLIENT_SECONDS = 30
SERVER_MARGIN_SECONDS = 15
"""The edge waits this much longer than the service's own deadlines, so that the service answers."""


def find_haproxy(environ: Mapping[str, str]) -> Path:
    """``haproxy`` on the path or where Debian puts it.

    Raises:
        CannotServe: there is none; the message says how to get one.
    """
    path = environ.get("PATH", os.defpath)
    found = shutil.which("haproxy", path=f"{path}:/usr/local/sbin:/usr/sbin")
    if found is None:
        raise CannotServe(
            "HAProxy is not installed: sudo apt-get install haproxy (Debian, Ubuntu)."
        )
    return Path(found)


def check_port(host: str, port: int) -> None:
    """See that the public address is free.

    Raises:
        CannotServe: it is in use, or is not an address of this machine.
    """
    try:
        found = socket.getaddrinfo(without_brackets(host), port, type=socket.SOCK_STREAM)
        family, kind, proto, _, address = found[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError as exc:
        raise CannotServe(
            f"Port {port} needs root. Set VLM_PORT to one above 1023, such as 8080."
        ) from exc
    except OSError as exc:
        raise CannotServe(
            f"Cannot listen on {host}:{port}: {exc.strerror or exc}. "
            "Stop what uses it, or set VLM_PORT (and VLM_HOST) to a free one."
        ) from exc


def write_config(run_dir: RunDir, settings: Settings) -> Path:
    """Write HAProxy's configuration into ``run_dir``."""
    longest = max(settings.prompt_timeout_seconds, settings.stream_timeout_seconds)
    return run_dir.write(
        CONFIG_FILE,
        {
            "address": bind_address(settings),
            "max_connections": str(max_connections()),
            "door": str(run_dir.door),
            "aborts_socket": str(run_dir.aborts_socket),
            "edge_socket": str(run_dir.edge_socket),
            "header_timeout": str(HEADER_SECONDS),
            "client_timeout": str(CLIENT_SECONDS),
            "server_timeout": str(int(longest) + SERVER_MARGIN_SECONDS),
            "max_header_bytes": str(MAX_HEADER_BYTES),
            "max_request_bytes": str(settings.max_payload_mb * _MIB),
            "not_found": _body(
                errors.NotFound,
                "No such path. There are /invocations, /v1/chat/completions, /v1/models, "
                "/openapi.json, /ping and /metrics.",
            ),
            "method_not_allowed": _body(errors.MethodNotAllowed, "Use GET or POST."),
            "payload_too_large": _body(
                errors.PayloadTooLarge,
                f"The body is over the limit of {settings.max_payload_mb} MiB. Send less, or "
                "raise VLM_MAX_PAYLOAD_MB.",
            ),
            "headers_too_large": _body(
                errors.HeadersTooLarge,
                f"The headers are over the limit of {MAX_HEADER_BYTES} bytes together. Send less.",
            ),
            "bad_request": _body(errors.BadRequest, "This is not a well-formed HTTP request."),
            "request_timeout": _body(
                errors.BadRequest, "The request did not arrive in time. Send it again."
            ),
            "bad_gateway": _body(
                errors.Unavailable, "The service broke off. It is being restarted; try again."
            ),
            "unavailable": _body(
                errors.Unavailable, "The service is starting or restarting. Try again."
            ),
            "gateway_timeout": _body(
                errors.DeadlineExceeded, "The service did not answer in time. Try again."
            ),
        },
    )


def max_connections() -> int:
    """As many as there may be open files for: HAProxy does not start with more of them."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    # One file for the client's side of each, one for the service's.
    return min(MAX_CONNECTIONS, max(1, (limit - _OTHER_FILES) // 2))


async def ping(run_dir: RunDir, seconds: float) -> int | None:
    """200 if HAProxy itself answers, whatever is behind it; ``None``: no answer within the time.

    Args:
        seconds: at most.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(run_dir.edge_socket)
            try:
                writer.write(b"show version\n")
                return HTTP_OK if await reader.readline() else None
            finally:
                writer.close()
    except (TimeoutError, OSError):
        return None


def _body(error: type[errors.VlmError], message: str) -> str:
    """An error's body, escaped for a quoted string of HAProxy's configuration."""
    body = json.dumps({"error": {"code": error.code, "message": message}})
    return body.replace("\\", "\\\\").replace('"', '\\"')


def check_config(haproxy: Path, config: Path) -> None:
    """Let HAProxy read its configuration.

    Raises:
        CannotServe: it refuses it.
    """
    checked = subprocess.run(
        [haproxy, "-c", "-q", "-f", config],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # a Ctrl-C now is for the supervisor, and no fault of the file
    )
    if checked.returncode in (-signal.SIGINT, -signal.SIGTERM):
        return  # it came before the new session did; the supervisor has heard it too
    if checked.returncode:
        reason = checked.stderr.strip() or f"it ended with {checked.returncode}"
        raise CannotServe(f"HAProxy refuses its configuration: {reason}")


def command(haproxy: Path, config: Path) -> list[str]:
    """In the foreground, without a master process."""
    return [str(haproxy), "-db", "-f", str(config)]


async def wait_listening(settings: Settings, limit: float = 5.0) -> bool:
    """Wait until the public port takes connections; ``False``: it does not."""
    host = reachable_host(settings)
    try:
        async with asyncio.timeout(limit):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, settings.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return True
    except TimeoutError:
        return False
