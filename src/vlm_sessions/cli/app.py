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
from typing import Annotated

import typer
from rich.console import Console

from vlm_sessions import __version__
from vlm_sessions.cli import conversation
from vlm_sessions.client import Client, ClientError, ConnectionFailed
from vlm_sessions.client.transport import DEFAULT_URL
from vlm_sessions.client.wire import Sampling
from vlm_sessions.config import Settings
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
System = Annotated[str | None, typer.Option(help="Instructions that come before everything.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="0, the default, always takes the likeliest token.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeats a sampled answer.")]


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
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
) -> None:
    """Ask one question about a picture."""
    sampling = _sampling(max_new_tokens, temperature, seed)
    with _failures_reported(), Client(url) as client:
        conversation.ask(
            client, [picture, *(image or [])], question, system, sampling, out=sys.stdout
        )


@app.command()
def chat(
    picture: Annotated[str | None, typer.Argument(help="A path or a URL.")] = None,
    *,
    image: Pictures = None,
    url: Url = DEFAULT_URL,
    system: System = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
) -> None:
    """Talk about a picture. /quit ends it; so does the end of a piped input."""
    sampling = _sampling(max_new_tokens, temperature, seed)
    pictures = [*([picture] if picture else []), *(image or [])]
    with (
        _failures_reported(),
        Client(url) as client,
        client.open(pictures, system=system) as session,
    ):
        conversation.chat(session, sampling, lines=sys.stdin, out=sys.stdout)


@app.command()
def serve() -> None:
    """Serve in the foreground. Settings are VLM_ variables; docs/settings.md lists them."""
    from vlm_sessions.serve import run  # noqa: PLC0415 - the server's packages

    raise typer.Exit(run(_settings()))


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
    try:
        return Settings.from_env(os.environ)
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
