"""``python -m bench.image``: how large the image is, layer by layer, and how long a container takes
from `docker run` to the first answer about a picture, with the built-in model.

Containers share this machine's network, so that no time goes into a network of their own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from bench.figures import Spread
from bench.keep import RESULTS, moment
from bench.machine import Conditions, describe_machine, load_average
from bench.program import Out, keep_run
from bench.service import free_port

PICTURE = Path(__file__).parents[1] / "demo" / "pictures" / "shapes.png"
POLL_SECONDS = 0.05
START_SECONDS = 300.0
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Layer:
    """What made it, shortened, and how much it holds."""

    made_by: str
    megabytes: float


@dataclass(frozen=True, slots=True)
class Report(Conditions):
    image: str
    layers: tuple[Layer, ...]
    seconds_to_first_answer: Spread
    num_runs: int


def layers_of(image: str) -> tuple[Layer, ...]:
    """Those that hold anything, from the base upwards."""
    told = _docker("history", "--no-trunc", "--human=false", "--format={{json .}}", image)
    found = [json.loads(line) for line in reversed(told.splitlines())]
    return tuple(
        Layer(" ".join(each["CreatedBy"].split())[:70], round(int(each["Size"]) / _MB, 1))
        for each in found
        if int(each["Size"]) >= _MB / 10
    )


def seconds_to_first_answer(image: str) -> float:
    """One container, from before `docker run` until it has answered a question."""
    port = free_port()
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    question = {
        "type": "generate",
        "images": [{"data": picture}],
        "prompt": "What is in the top left?",
        "max_new_tokens": 16,
    }
    settings = ("--env=VLM_HOST=127.0.0.1", f"--env=VLM_PORT={port}")
    begun = time.monotonic()
    container = _docker("run", "--detach", "--network=host", *settings, image)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            while time.monotonic() - begun < START_SECONDS:
                try:
                    if http.post("/invocations", json=question).status_code == 200:
                        return time.monotonic() - begun
                except httpx.TransportError:
                    pass
                time.sleep(POLL_SECONDS)
        raise TimeoutError(_docker("logs", container)[-2000:])
    finally:
        _docker("rm", "--force", "--volumes", container)


def _docker(*arguments: str) -> str:
    ran = subprocess.run(
        [os.environ.get("DOCKER", "docker"), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def main(
    image: Annotated[str, typer.Option(help="Built by `make image`.")] = "vlm-sessions:latest",
    *,
    runs: Annotated[int, typer.Option(min=1)] = 5,
    out: Out = RESULTS,
) -> None:
    """Measure, print, and keep the figures as JSON."""
    console = Console()
    layers = layers_of(image)
    for layer in layers:
        line = f"{layer.megabytes:8.1f} MB  {layer.made_by}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{sum(layer.megabytes for layer in layers):8.1f} MB in all", highlight=False)
    load_before = load_average()
    seconds = Spread.of([seconds_to_first_answer(image) for _ in range(runs)])
    console.print(
        f"docker run to first answer: {seconds.median:.1f} s "
        f"({seconds.smallest:.1f}–{seconds.largest:.1f}), {runs} runs"
    )
    taken_at = moment()
    report = Report(
        taken_at=taken_at,
        machine=describe_machine(),
        load_before=load_before,
        load_after=load_average(),
        image=image,
        layers=layers,
        seconds_to_first_answer=seconds,
        num_runs=runs,
    )
    keep_run("image", report, out, console)


if __name__ == "__main__":
    typer.run(main)
