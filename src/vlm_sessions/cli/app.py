"""The commands, their options and their exit codes.

0  done
1  the service refused or failed, or the machine cannot serve
2  the command line or a setting is wrong
3  the service cannot be reached
130  interrupted
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_sessions import __version__
from vlm_sessions.cli import conversation, keys
from vlm_sessions.client import Client, ClientError, ConnectionFailed
from vlm_sessions.client.transport import DEFAULT_URL
from vlm_sessions.client.wire import Sampling
from vlm_sessions.config import API_KEY_VARIABLE, Settings
from vlm_sessions.errors import ConfigError


class ExitCode(IntEnum):
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Ask about pictures, in sessions that keep them where the model needs them.",
)

Pictures = Annotated[
    list[str] | None, typer.Option("--image", "-i", help="Another picture: a path or a URL.")
]
Url = Annotated[str, typer.Option(help="Where the service is.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar=API_KEY_VARIABLE,
        help="Where the service asks for one. The variable keeps it out of the list of processes.",
    ),
]
System = Annotated[str | None, typer.Option(help="Instructions that come before everything.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="0, the default, always takes the likeliest token.")
]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Where it listens. Default: VLM_PORT or 8080.")
]
Host = Annotated[str | None, typer.Option(help="Default: VLM_HOST or 127.0.0.1.")]
HoldSeconds = Annotated[
    float, typer.Option(help="How long a request may wait for a replica that restarts.")
]
AwaySeconds = Annotated[
    float,
    typer.Option(help="How long a replica may be gone for a restart; then its sessions are lost."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeats a sampled answer.")]


app.add_typer(keys.app, name="keys")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False,
) -> None:
    if version:
        typer.echo(f"vlm-sessions {__version__}")
        raise typer.Exit


@app.command()
def ask(
    picture: Annotated[str, typer.Argument(help="A path or a URL.")],
    question: Annotated[str, typer.Argument()],
    *,
    image: Pictures = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
) -> None:
    """Ask one question about a picture."""
    sampling = _sampling(max_new_tokens, temperature, seed)
    with _failures_reported(), Client(url, api_key=api_key) as client:
        conversation.ask(
            client, [picture, *(image or [])], question, system, sampling, out=sys.stdout
        )


@app.command()
def chat(
    picture: Annotated[str | None, typer.Argument(help="A path or a URL.")] = None,
    *,
    image: Pictures = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
) -> None:
    """Talk about a picture. /undo takes the last answer back, /quit ends it."""
    sampling = _sampling(max_new_tokens, temperature, seed)
    pictures = [*([picture] if picture else []), *(image or [])]
    with (
        _failures_reported(),
        Client(url, api_key=api_key) as client,
        client.open(pictures, system=system) as session,
    ):
        conversation.chat(session, sampling, lines=sys.stdin, out=sys.stdout)


@app.command()
def serve() -> None:
    """Serve in the foreground. Settings are VLM_ variables; docs/settings.md lists them."""
    from vlm_sessions.serve import run  # noqa: PLC0415 - the server's packages

    raise typer.Exit(run(_settings()))


@app.command()
def router(
    *,
    replica: Annotated[
        list[str], typer.Option(help="A replica, as HOST:PORT or NAME=HOST:PORT. Repeat it.")
    ],
    port: Port = None,
    host: Host = None,
    hold_seconds: HoldSeconds = 40.0,
    away_seconds: AwaySeconds = 300.0,
    name: Annotated[str, typer.Option(help="Its own, among its peers.")] = "router",
    listen_peer: Annotated[
        str | None, typer.Option(help="HOST:PORT where its peers reach it.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another router, as NAME=HOST:PORT. Repeat it.")
    ] = None,
    admin_socket: Annotated[
        Path | None, typer.Option(help="Path of HAProxy's runtime socket; else it is told.")
    ] = None,
) -> None:
    """Route to replicas in the foreground, each session always to its own."""
    from vlm_sessions.cluster import RouterOptions, run_router  # noqa: PLC0415 - the server's packages

    with _mistakes_reported():
        options = RouterOptions.parse(
            _listening(host, port),
            replicas=replica,
            hold_seconds=hold_seconds,
            away_seconds=away_seconds,
            name=name,
            listen_peer=listen_peer,
            peers=peer or [],
            admin_socket=admin_socket,
        )
    raise typer.Exit(run_router(options))


@app.command()
def cluster(
    *,
    replicas: Annotated[int, typer.Option(help="How many of this service to run.")],
    routers: Annotated[int, typer.Option(help="Routers, on consecutive ports.")] = 1,
    port: Port = None,
    host: Host = None,
    hold_seconds: HoldSeconds = 40.0,
    away_seconds: AwaySeconds = 300.0,
) -> None:
    """Serve with several replicas behind a router. SIGHUP updates them one after the other."""
    from vlm_sessions.cluster import ClusterOptions, run_cluster  # noqa: PLC0415 - the server's packages

    with _mistakes_reported():
        options = ClusterOptions(
            _listening(host, port), replicas, routers, hold_seconds, away_seconds
        )
    raise typer.Exit(run_cluster(options))


@app.command()
def doctor() -> None:
    """Say what this machine lacks to serve, and how to get it."""
    from vlm_sessions.cli.doctor import diagnose, report  # noqa: PLC0415 - the server's packages

    findings = diagnose(_settings())
    report(findings, Console())
    if any(finding.prevents_serving for finding in findings):
        raise typer.Exit(ExitCode.REFUSED)


def main() -> None:
    """The entry point of the console script."""
    app(prog_name="vlm-sessions")


def _settings() -> Settings:
    with _mistakes_reported():
        return Settings.from_env(os.environ)


def _listening(host: str | None, port: int | None) -> Settings:
    """The settings, with the address that was given."""
    given = {"host": host, "port": port}
    return _settings().model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )


@contextmanager
def _mistakes_reported() -> Iterator[None]:
    """A wrong setting or option is one line on stderr."""
    try:
        yield
    except ConfigError as exc:
        _complain(str(exc))
        raise typer.Exit(ExitCode.USAGE) from exc


def _sampling(max_new_tokens: int | None, temperature: float | None, seed: int | None) -> Sampling:
    sampling = Sampling()
    if max_new_tokens is not None:
        sampling["max_new_tokens"] = max_new_tokens
    if temperature is not None:
        sampling["temperature"] = temperature
    if seed is not None:
        sampling["seed"] = seed
    return sampling


@contextmanager
def _failures_reported() -> Iterator[None]:
    """One line on stderr and an exit code, in place of a traceback."""
    try:
        yield
    except ConnectionFailed as exc:
        _complain(f"{exc} Start one with: vlm-sessions serve")
        raise typer.Exit(ExitCode.UNREACHABLE) from exc
    except ClientError as exc:
        _complain(str(exc))
        raise typer.Exit(ExitCode.REFUSED) from exc
    except KeyboardInterrupt as exc:
        raise typer.Exit(ExitCode.INTERRUPTED) from exc


def _complain(message: str) -> None:
    typer.echo(f"vlm-sessions: {message}", err=True)
