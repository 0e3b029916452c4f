"""What the programs of this folder do alike as commands."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.keep import Report, keep

Seed = Annotated[int, typer.Option(help="0: another one each time.")]
Out = Annotated[Path, typer.Option(help="Folder for the JSON file.")]


def choose_seed(seed: int) -> int:
    return seed or random.SystemRandom().getrandbits(31)


@contextmanager
def telling(console: Console, *failures: type[Exception]) -> Iterator[None]:
    """Say in red which of these failures ends the program.

    Raises:
        typer.Exit: with 1, in place of one of them.
    """
    try:
        yield
    except failures as exc:
        told = str(exc) or type(exc).__name__
        console.print(told, style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from exc


def keep_run(name: str, report: Report, folder: Path, console: Console) -> None:
    """Write a report, and say where."""
    path = keep(name, report, folder)
    console.print(f"kept in {path}", highlight=False, soft_wrap=True)
