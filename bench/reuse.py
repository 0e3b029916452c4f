"""``python -m bench.reuse``: what reuse to the exact token gains on a follow-up.

The engine alone, in this process. Each pair is two conversations on one picture, alike in every
length; both follow-ups are timed one after the other, once as the engine works and once with only
whole blocks found again. Times are the processor's, of the one thread that does all the work, and
reported are ratios within the pairs: other work on the machine meets both alike. Lengths differ
from pair to pair, so that what is left of a prefix beyond its whole blocks is now nothing and now
almost a block.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.model import build_checkpoint
from bench.program import Seed, choose_seed
from bench.shapes import SHAPES
from vlm_sessions.config import Settings
from vlm_sessions.engine.blocks import BlockPool
from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.matches import Match
from vlm_sessions.engine.types import (
    Failed,
    ImageSpan,
    PixelImage,
    PixelsNeeded,
    Prefilled,
    Sampling,
    TokenOut,
    Turn,
)
from vlm_sessions.model.runner import make_runner

FIRST_WORD = 16
"""Token ids from here on are words, of which any may be asked."""
NUM_WARM_PAIRS = 2


class SwitchablePool(BlockPool):
    """A pool that can be told to find whole blocks only."""

    whole_only = False

    def match(self, chain: TokenChain, num_tokens: int) -> Match:
        match = super().match(chain, num_tokens)
        if not self.whole_only:
            return match
        return Match(len(match.full) * self.block_size, match.full)


@dataclass(frozen=True, slots=True)
class Timed:
    ttft: float
    """ms of the thread's time, from handing the follow-up to the engine to its first token."""
    num_computed: int
    """Tokens of the prompt that were not cached."""


@dataclass(frozen=True, slots=True)
class Pair:
    exact: Timed
    whole: Timed

    @property
    def ratio(self) -> float:
        return self.whole.ttft / self.exact.ttft


class Bench:
    """An engine over a checkpoint, and one picture that all conversations are about."""

    def __init__(self, folder: Path, num_image_tokens: int, image_side: int, seed: int) -> None:
        settings = Settings(device="cpu", dtype="float32", threads=1)
        self._engine = Engine(make_runner(settings, folder), EngineLimits())
        info = self._engine.info
        self._pool = SwitchablePool(info.num_blocks, info.block_size)
        self._engine.scheduler.caches.pool = self._pool
        self._random = random.Random(seed)
        self._block_size = info.block_size
        self._num_image_tokens = num_image_tokens
        shape = (3, image_side, image_side)
        self._picture = PixelImage("black", shape, bytes(4 * 3 * image_side**2))
        self._num_turns = 0

    def pair(self, num_asked: int) -> Pair:
        """Time a follow-up of ``num_asked`` tokens both ways, in an order drawn by lot."""
        length = self._random.randrange(self._block_size, 2 * self._block_size)
        timed: dict[bool, Timed] = {}
        for whole_only in self._random.sample((True, False), 2):
            said = self._words(length)
            answer, _ = self._ask(said, num_new=self._block_size)
            self._pool.whole_only = whole_only
            _, timed[whole_only] = self._ask(said + answer + self._words(num_asked), num_new=1)
            self._pool.whole_only = False
        return Pair(exact=timed[False], whole=timed[True])

    def _words(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.choices(range(FIRST_WORD, 1000), k=count))

    def _ask(self, words: tuple[int, ...], *, num_new: int) -> tuple[tuple[int, ...], Timed]:
        self._num_turns += 1
        placeholders = (0,) * self._num_image_tokens
        turn = Turn(
            turn_id=str(self._num_turns),
            tokens=placeholders + words,
            images=(ImageSpan(self._picture.digest, 0, self._num_image_tokens),),
            sampling=Sampling(max_new_tokens=num_new, ignore_eos=True),
        )
        answer: list[int] = []
        num_computed = 0
        ttft = 0.0
        started = time.thread_time()
        events = self._engine.add(turn)
        while True:
            for event in events:
                match event:
                    case PixelsNeeded():
                        self._engine.put_pixels(self._picture)
                    case Prefilled():
                        num_computed = event.prompt_tokens - event.cached_tokens
                    case TokenOut():
                        ttft = ttft or (time.thread_time() - started) * 1e3
                        answer.append(event.token)
                    case Failed():
                        raise RuntimeError(event.message)
            if len(answer) == num_new:
                return tuple(answer), Timed(ttft, num_computed)
            events = self._engine.step()


def measure(shape: str, num_pairs: int, num_asked: int, seed: int) -> list[Pair]:
    """So many pairs on a checkpoint of random weights, after a few that are not counted."""
    with tempfile.TemporaryDirectory(prefix="vlm-bench-") as folder:
        build_checkpoint(SHAPES[shape], Path(folder))
        bench = Bench(Path(folder), SHAPES[shape].num_image_tokens, SHAPES[shape].image_size, seed)
    pairs = [bench.pair(num_asked) for _ in range(NUM_WARM_PAIRS + num_pairs)]
    return pairs[NUM_WARM_PAIRS:]


def main(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(SHAPES)}; may be repeated.")
    ] = None,
    *,
    pairs: Annotated[int, typer.Option(min=2)] = 40,
    asked: Annotated[int, typer.Option(min=1, help="Tokens of a follow-up.")] = 20,
    seed: Seed = 0,
) -> None:
    """Measure, and print the ratios."""
    seed = choose_seed(seed)
    table = Table(box=None, pad_edge=False)
    table.add_column("shape")
    for heading in (
        *("median ratio", "lower quartile", "upper quartile"),
        *("tokens computed, whole blocks", "… exact"),
    ):
        table.add_column(heading, justify="right")
    for name in shape or ["demo", "221m"]:
        taken = measure(name, pairs, asked, seed)
        low, middle, high = quantiles([pair.ratio for pair in taken], method="inclusive")
        table.add_row(
            name,
            *(f"{ratio:.2f}" for ratio in (middle, low, high)),
            f"{median(pair.whole.num_computed for pair in taken):g}",
            f"{median(pair.exact.num_computed for pair in taken):g}",
        )
    console = Console()
    console.print("First token of a follow-up, whole blocks over exact reuse:")
    console.print(table)
    console.print(f"{pairs} pairs each, {asked} tokens asked; seed {seed}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
