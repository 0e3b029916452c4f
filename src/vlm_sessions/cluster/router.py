"""One router: HAProxy with its configuration and its Lua files."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from string import Template

from vlm_sessions.cluster.keeper import Kept
from vlm_sessions.cluster.options import MAX_REPLICAS, Member, RouterOptions
from vlm_sessions.cluster.refusals import BAD_REQUEST, REQUEST_TIMEOUT, lua_module
from vlm_sessions.serve import edge
from vlm_sessions.serve.address import bind_address, reachable_url
from vlm_sessions.serve.children import Children
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.run_dir import RunDir

DRAIN_SECONDS = 25
"""After SIGTERM, answers that are on their way may take this long."""
_STOP_SECONDS = DRAIN_SECONDS + 3.0
_SERVER_MARGIN_SECONDS = 30
"""A replica's edge gives up 15 s after the replica's own deadlines, and the router after that."""
_TABLE_ENTRIES = 200_000
"""Sessions whose owner the table keeps; of one that was dropped the replicas are asked."""
MAX_FINDING = 64
"""Unknown sessions that replicas are asked about at the same time, with a socket each."""
_SPARE_CONNECTIONS = (MAX_FINDING + MAX_REPLICAS) // 2
"""HAProxy counts two sockets each: for questions and pings. `edge.max_connections` leaves room."""
_LUA_FILES = ("router.lua", "routes.lua", "replicas.lua", "replies.lua", "http.lua")
_CONFIG = "router.cfg"
_LEFT = "aborting Lua processing on expired timeout."
"""How HAProxy ends the line on a client that leaves while Lua holds its request."""
_FINISHED_LINE = "All answers are finished."
"""Lua's, after a soft stop has begun."""


class Router:
    """One HAProxy, started again when it dies.

    Args:
        options: what it routes to, and where it listens.
        haproxy: the program.
        children: who starts it.
        say: writes a line to the console.
        hurry: set when the stop is to be a quick one.
    """

    def __init__(
        self,
        options: RouterOptions,
        haproxy: Path,
        children: Children,
        say: Callable[[str], None],
        hurry: asyncio.Event,
    ) -> None:
        self._options = options
        self._haproxy = haproxy
        self._children = children
        self._say = say
        self._run_dir = RunDir.make()
        self.admin_socket = options.admin_socket or self._run_dir.path / "admin.sock"
        self.url = reachable_url(options.settings)
        self.process = Kept(
            f"HAProxy of {options.name}",
            self._start,
            say=say,
            show=self._show,
            stop_signal=signal.SIGUSR1,
            stop_seconds=_STOP_SECONDS,
            hurry=hurry,
        )

    def prepare(self) -> None:
        """See that it can listen, write its files and let HAProxy read them.

        Raises:
            CannotServe: its port is not free, or HAProxy refuses the configuration.
        """
        settings = self._options.settings
        edge.check_port(settings.host, settings.port)
        write_config(self._run_dir.path, self._options, self.admin_socket)
        edge.check_config(self._haproxy, self._run_dir.path / _CONFIG)

    async def wait_listening(self) -> None:
        """Raises:
        CannotServe: it does not.
        """
        if not await edge.wait_listening(self._options.settings):
            raise CannotServe(f"The router does not listen at {self.url}; see what HAProxy said.")

    def remove(self) -> None:
        """Remove its files, once it is stopped."""
        self._run_dir.remove()

    def _show(self, line: str) -> None:
        # Lua's own lines are plain. Of HAProxy's, in brackets, only errors say more than those.
        if not line.startswith("[") or (line.startswith("[ALERT]") and not line.endswith(_LEFT)):
            self._say(line)
        if line == _FINISHED_LINE:
            self.process.send_signal(signal.SIGTERM)

    async def _start(self) -> asyncio.subprocess.Process:
        return await self._children.start(
            edge.command(self._haproxy, self._run_dir.path / _CONFIG),
            env={},
            cwd=str(self._run_dir.path),
            output=asyncio.subprocess.PIPE,
        )


def write_config(run_dir: Path, options: RouterOptions, admin_socket: Path) -> None:
    """Write HAProxy's configuration and the Lua files into ``run_dir``."""
    settings = options.settings
    has_names = any(replica.has_host_name for replica in options.replicas)
    longest = max(settings.prompt_timeout_seconds, settings.stream_timeout_seconds)
    values = {
        "address": bind_address(settings),
        "all_connections": str(edge.max_connections() + _SPARE_CONNECTIONS),
        "max_connections": str(edge.max_connections()),
        "run_dir": _quoted(str(run_dir)),
        "admin_socket": _quoted(str(admin_socket)),
        "drain_seconds": str(DRAIN_SECONDS),
        "header_timeout": str(edge.HEADER_SECONDS),
        "client_timeout": str(edge.CLIENT_SECONDS),
        "server_timeout": str(int(longest) + _SERVER_MARGIN_SECONDS),
        "num_retries": str(len(options.replicas)),
        "servers": _server_lines(options.replicas),
        "num_sessions": str(_TABLE_ENTRIES),
        "session_seconds": str(settings.session_max_seconds),
        "bad_request": _quoted(BAD_REQUEST.body()),
        "request_timeout": _quoted(REQUEST_TIMEOUT.body()),
        "peers": _peer_lines(options),
        "local_peer": f"localpeer {options.name}" if options.listen_peer else "",
        "shared": " peers routers" if options.listen_peer else "",
        "resolvers": _RESOLVERS if has_names else "",
    }
    package = resources.files("vlm_sessions.cluster")
    config = Template(package.joinpath(_CONFIG).read_text("utf-8")).substitute(values)
    (run_dir / _CONFIG).write_text(config, "utf-8")
    (run_dir / "refusals.lua").write_text(lua_module(), "utf-8")
    (run_dir / "settings.lua").write_text(
        f"return {{hold_ms = {int(options.hold_seconds * 1000)}, "
        f"away_seconds = {int(options.away_seconds)}, "
        f"max_finding = {MAX_FINDING}}}\n",
        "utf-8",
    )
    for name in _LUA_FILES:
        (run_dir / name).write_text(package.joinpath(name).read_text("utf-8"), "utf-8")


# A replica with a host name may come back at another address, as containers do. While its name is
# unknown its last address stays: whether it is gone is for its /ping to tell.
_RESOLVERS = """resolvers names
  parse-resolv-conf
  hold valid 5s
  hold nx 1d
  hold timeout 1d
  hold refused 1d
  hold other 1d
  hold obsolete 1d"""
_LOOKED_UP = " resolvers names resolve-prefer ipv4 init-addr last,libc,none"


def _server_lines(replicas: Iterable[Member]) -> str:
    return "\n".join(
        f"  server {replica.name} {replica.address} id {replica.number}"
        + (_LOOKED_UP if replica.has_host_name else "")
        for replica in replicas
    )


def _peer_lines(options: RouterOptions) -> str:
    if options.listen_peer is None:
        return ""
    members = (Member(options.name, options.listen_peer), *options.peers)
    return "\n".join(
        ["peers routers", *(f"  peer {member.name} {member.address}" for member in members)]
    )


def _quoted(text: str) -> str:
    """One word of HAProxy's configuration, whatever is in it. Its quotes are those of a shell."""
    return shlex.quote(text)
