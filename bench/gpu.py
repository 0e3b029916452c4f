"""``python -m bench.gpu``: everything that is promised of a GPU, measured in one call.

Runs ``tests/gpu`` first, then measures the engine alone, in this process, on random weights of
LLaVA-1.5-7B's shape that are made on the device: first and follow-up TTFT, decoding, sessions that
share an image, many open sessions with some of them talking, and transformers' ``generate`` doing
the same work. Floors are computed from a copy and a product measured on the same device. It needs
less than ten minutes, no network and no checkpoint, and need not be installed: with ``PYTHONPATH``
at ``src:.`` it wants torch, transformers, and the libraries that requirements/serve.txt names.

``--shape tiny --device cpu`` runs the same program anywhere in seconds: it then shows that it
works, and nothing else. ``VLM_`` variables overrule the settings that it measures with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_driver import Driver
from bench.gpu_limits import Floors, Limits, measure_limits
from bench.gpu_model import make_model, make_random_runner, time_generate
from bench.gpu_scenarios import (
    Mixed,
    Scale,
    decode_step,
    first_ttft,
    follow_up_ttft,
    follow_up_turn,
    mixed,
)
from bench.keep import RESULTS, moment
from bench.machine import Machine, describe_machine
from bench.program import Out, Seed, choose_seed, keep_run
from bench.shapes import SHAPES, Shape
from vlm_sessions.build import engine_limits
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine

Device = Literal["cuda", "cpu"]
NUM_ANSWER = 64
"""Tokens of an answer where ours and transformers' are compared."""
NUM_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``floor`` is what the device allows, ``goal`` what we are to reach."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    taken_at: str
    machine: Machine
    device: str
    shape: str
    dtype: str
    seed: int
    tests: str
    """The last line of tests/gpu; empty: not run."""
    limits: Limits
    memory: dict[str, str | int | None]
    """What memory went where, as the engine logs it."""
    figures: tuple[Figure, ...]
    mixed: Mixed


def measure(shape: Shape, settings: Settings, scale: Scale, seed: int, tests: str) -> Report:
    """All of it. transformers comes first: afterwards the model is the engine's."""
    loaded = make_model(shape, settings)
    limits = measure_limits(loaded.device, loaded.dtype)
    floors = Floors(shape, limits, loaded.dtype.itemsize)
    generate = [
        time_generate(
            loaded,
            shape,
            batch=batch,
            prompt=scale.context + scale.num_words,
            answer=NUM_ANSWER,
            repeats=2,
        )
        for batch in (1, NUM_TOGETHER)
    ]
    runner = make_random_runner(shape, settings, loaded)
    driver = Driver(Engine(runner, engine_limits(settings)), shape, seed)
    figures = [
        *_latencies(driver, floors, scale),
        *_decoding(driver, floors, scale),
        *_against_generate(driver, scale, generate),
    ]
    driver.engine.clear()
    on_gpu = loaded.device.type == "cuda"
    return Report(
        taken_at=moment(),
        machine=describe_machine(),
        device=torch.cuda.get_device_name(loaded.device) if on_gpu else "cpu",
        shape=shape.name,
        dtype=runner.info.dtype,
        seed=seed,
        tests=tests,
        limits=limits,
        memory=runner.memory.fields(),
        figures=tuple(figures),
        mixed=mixed(driver, scale),
    )


def _latencies(driver: Driver, floors: Floors, scale: Scale) -> list[Figure]:
    num_prompt = floors.shape.num_image_tokens + scale.num_words
    floor = floors.first_token(num_prompt)
    first = first_ttft(driver, scale, num_prompt)
    follow_up = follow_up_ttft(driver, scale)
    least = floors.step(1, scale.context)
    return [
        Figure("first TTFT", first * 1e3, "ms", floor * 1e3, "≤ 18 ms"),
        Figure("follow-up TTFT", follow_up * 1e3, "ms", least * 1e3, "≤ 5 ms"),
    ]


def _decoding(driver: Driver, floors: Floors, scale: Scale) -> list[Figure]:
    batch, context = scale.batch, scale.context
    alone = decode_step(driver, scale, 1)
    own = decode_step(driver, scale, batch)
    shared = decode_step(driver, scale, batch, shared=True)
    least = floors.step(batch, context)
    least_shared = floors.step(batch, context, num_contexts=1)
    name = f"{batch} sessions"
    return [
        Figure("decode, 1 session", alone * 1e3, "ms", floors.step(1, context) * 1e3, "≤ 3.9 ms"),
        Figure(f"decode, {name}", batch / own, "token/s", batch / least, "≥ 5500"),
        Figure(f"decode, {name} on one image", batch / shared, "token/s", batch / least_shared),
        Figure("the same, shared ÷ unshared", own / shared, "×", goal="≥ 1.5"),
    ]


def _against_generate(driver: Driver, scale: Scale, generate: list[float]) -> list[Figure]:
    figures = []
    for batch, theirs in zip((1, NUM_TOGETHER), generate, strict=True):
        ours = follow_up_turn(driver, scale, batch, NUM_ANSWER)
        name = f"a turn of {NUM_ANSWER} tokens, {batch} at once"
        figures += [
            Figure(name, ours * 1e3, "ms"),
            Figure(f"{name}, generate", theirs * 1e3, "ms"),
            Figure(f"{name}, generate ÷ ours", theirs / ours, "×", goal="≥ 6"),
        ]
    return figures


def run_tests() -> str:
    """``tests/gpu``; their last line. Their output goes where ours does."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"]
    run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(run.stdout)
    return (run.stdout.strip().splitlines() or ["nothing was run"])[-1]


def print_report(report: Report, console: Console) -> None:
    table = Table(title=f"{report.shape}, {report.dtype}, {report.device}")
    for heading in ("", "measured", "", "floor", "goal"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for figure in report.figures:
        floor = "" if figure.floor is None else f"{figure.floor:,.2f}"
        table.add_row(figure.name, f"{figure.value:,.2f}", figure.unit, floor, figure.goal)
    console.print(table)
    many = report.mixed
    console.print(
        f"{many.num_open} open sessions, {many.num_active} talking for {many.seconds:.0f} s: "
        f"{many.turns_per_second:.1f} turns/s, {many.goodput:.1f} of them in time, "
        f"{many.tokens_per_second:.0f} token/s, {many.num_lost} lost",
        highlight=False,
    )
    for level in many.levels:
        ttft = level.ttft
        console.print(
            f"  TTFT from {level.level}: p50 {ttft.p50:.1f} ms, p99 {ttft.p99:.1f} ms, "
            f"{ttft.num_samples} turns",
            highlight=False,
        )
    console.print(f"tests/gpu: {report.tests or 'not run'}", highlight=False)


def small(scale: Scale, shape: Shape) -> Scale:
    """As much as a test has time for."""
    return replace(
        scale,
        context=shape.num_image_tokens + 24,
        num_words=8,
        num_repeats=2,
        batch=4,
        num_decode_steps=4,
        num_open=12,
        num_active=6,
        mixed_seconds=1.0,
        think_seconds=0.2,
    )


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "7b",
    *,
    device: Annotated[Device, typer.Option(help="cuda, or cpu for trying it out.")] = "cuda",
    tests: Annotated[bool, typer.Option(help="Run tests/gpu first.")] = True,
    seed: Seed = 0,
    out: Out = RESULTS,
) -> None:
    """Measure, print a table, and keep the figures as JSON."""
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("bench.gpu needs a CUDA device, and torch finds none")
    console = Console()
    seed = choose_seed(seed)
    scale = Scale(context=SHAPES[shape].num_image_tokens + 74)
    settings = Settings(device=device, max_running=256, feature_cache_mb=10_240)
    if device == "cpu":
        scale = small(scale, SHAPES[shape])
        settings = Settings(device=device, kv_cache_mb=64, feature_cache_mb=16, threads=1)
    report = measure(
        SHAPES[shape],
        Settings.from_env({**settings.to_env(), **os.environ}),
        scale,
        seed,
        run_tests() if tests and device == "cuda" else "",
    )
    print_report(report, console)
    keep_run("gpu", report, out, console)


if __name__ == "__main__":
    typer.run(main)
