"""The command ``keys``: makes API keys for a service that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_sessions.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="API keys of a service that is not on SageMaker.")


@app.callback()
def root() -> None:
    """Keeps ``new`` a command of its own: typer would otherwise take its place for it."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the client. The same name again: another key.")],
    *,
    add_to: Annotated[
        Path | None, typer.Option(help="Add its line to this file, and print the key alone.")
    ] = None,
) -> None:
    """Make a key. It is printed once; the service keeps only its digest."""
    from vlm_sessions.access.key_file import add_line  # noqa: PLC0415 - the server's packages
    from vlm_sessions.access.keys import new_key  # noqa: PLC0415

    try:
        key, line = new_key(name)
        if add_to is not None:
            add_line(add_to, line)
    except ConfigError as exc:
        typer.echo(f"vlm-sessions: {exc}", err=True)
        raise typer.Exit(2) from exc
    if add_to is not None:
        typer.echo(key)
    else:
        typer.echo(f"The key, for {name} alone and shown only now:\n{key}")
        typer.echo(f"Its line, for the file that the service's VLM_API_KEYS_FILE names:\n{line}")
