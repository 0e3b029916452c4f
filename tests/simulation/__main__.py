"""Simulate by hand, for as long as one likes: ``python -m tests.simulation --help``."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.campaign import STEPS_OF_A_WORLD, Part, Violation, simulate

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    part: Annotated[Part, typer.Argument(help="What is simulated.")],
    seed: Annotated[
        int | None, typer.Option(help="Of the first world; the next has the next one.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="In all worlds together.")] = 100_000,
    steps_of_a_world: Annotated[int | None, typer.Option(min=1, help="In each of them.")] = None,
    keep_going: Annotated[bool, typer.Option(help="Also after something did not hold.")] = False,
) -> None:
    """Let simulated worlds live, one after another, and check everything after each step.

    Exits with status 1 if something did not hold, and says how to see it again.
    """
    console = Console()
    first = secrets.randbits(32) if seed is None else seed
    each = STEPS_OF_A_WORLD[part] if steps_of_a_world is None else steps_of_a_world
    num_done = num_worlds = num_violations = 0
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(f"{part}, seed {first}", total=steps)
        while num_done < steps and not (num_violations and not keep_going):
            world = first + num_worlds
            progress.update(task, description=f"{part}, seed {world}")
            num_worlds += 1
            try:
                num_done += (result := simulate(part, world, each)).num_steps
            except Violation as violation:
                num_violations += 1
                num_done += each
                console.print_exception(max_frames=8)
                console.print(str(violation), markup=False, highlight=False)
            else:
                progress.update(task, completed=num_done)
    if num_worlds == 1 and not num_violations:
        console.print(f"digest {result.digest}")
    console.print(
        f"{num_done} steps in {num_worlds} worlds, seeds {first} to {first + num_worlds - 1}, "
        f"{time.monotonic() - started:.0f} s: {num_violations} violations",
        highlight=False,
    )
    raise typer.Exit(1 if num_violations else 0)


if __name__ == "__main__":
    app()
