"""``python -m bench.peers``: our engine and its peers through the same conversations, one core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.keep import RESULTS, moment
from bench.machine import describe_machine, load_average
from bench.peers.catalog import ENVIRONMENTS, OURS, PEERS, PeerKind, missing, start
from bench.peers.checkpoints import Checkpoints, build_checkpoints
from bench.peers.figures import Absent, Comparison, peer_figures, ratios
from bench.peers.process import ROOT, PeerFailed
from bench.peers.protocol import Load
from bench.peers.rounds import Contestant, Effort, RoundTimes, Scripts
from bench.peers.table import Report, print_report
from bench.program import Out, Seed, choose_seed, keep_run, telling
from bench.shapes import SHAPES
from bench.workload import Workload
from demo.tokenizer import IMAGE, token_ids
from vlm_sessions.model.processor import make_processor

WARM_UP = 1 << 32
"""Beyond all seeds of rounds. A negative one would not do: its pictures are those of its amount."""
KV_CACHE_MB = 1024  # the eight conversations, and one beside them

EFFORTS = {
    "tiny": Effort(2, 8, num_answer=4, num_long_answer=6, num_at_once=2),
    # A first prompt and its answer reach beyond the next multiple of 32 after the picture: a peer
    # that finds whole blocks only need not encode it again.
    "221m": Effort(3, 16, num_answer=16, num_long_answer=33, num_at_once=8),
}


class Run:
    """All peers on one checkpoint.

    Args:
        environments: folder of the peers' own environments; takes the checkpoints and what the
            peers write as well.
    """

    def __init__(
        self, shape: str, dtype: str, *, environments: Path, core: int | None, seed: int
    ) -> None:
        self._shape = SHAPES[shape]
        self._dtype = dtype
        self._effort = EFFORTS[shape]
        self._work = environments / "checkpoints"
        self._environments = environments
        self._core = core
        self._seed = seed
        self._rounds: dict[str, list[RoundTimes]] = {}
        self._versions: dict[str, dict[str, str]] = {}
        self._absent: list[Absent] = []

    def compare(self, kinds: Sequence[PeerKind], num_rounds: int, console: Console) -> Comparison:
        self._work.mkdir(parents=True, exist_ok=True)
        (self._environments / ".gitignore").write_text("*\n")
        checkpoints = build_checkpoints(self._shape, self._dtype, self._work)
        processor = make_processor(checkpoints.plain)
        scripts = Scripts(processor, self._effort, self._shape.num_image_tokens)
        with ExitStack() as stack:
            contestants = []
            for kind in kinds:
                console.print(f"{self._dtype}: loading {kind.name} …", highlight=False)
                contestant = self._start(kind, checkpoints, scripts, stack)
                if contestant is not None:
                    contestants.append(contestant)
            for number in range(num_rounds):
                console.print(f"{self._dtype}: round {number + 1} of {num_rounds}")
                script = scripts.round(Workload(self._seed + number))
                for contestant in list(contestants):
                    try:
                        taken = contestant.round(script)
                    except PeerFailed as exc:
                        contestants.remove(contestant)
                        self._leave_out(contestant.kind, str(exc))
                    else:
                        self._rounds[contestant.kind.name].append(taken)
        return self._comparison(num_rounds)

    def _start(
        self, kind: PeerKind, checkpoints: Checkpoints, scripts: Scripts, stack: ExitStack
    ) -> Contestant | None:
        """Load a peer, begin its conversations and have it through one round that does not count;
        None: it cannot take part, and why is kept."""
        reason = missing(kind, self._environments)
        if reason is not None:
            self._leave_out(kind, reason)
            return None
        program = "-".join((kind.module.rpartition(".")[2], *kind.arguments, self._dtype))
        log = self._work / f"{program}.log"
        process = stack.enter_context(
            start(kind, self._environments, kv_cache_mb=KV_CACHE_MB, core=self._core, log=log)
        )
        contestant = Contestant(kind, process, self._effort, self._shape.num_image_tokens)
        warm_up = Workload(self._seed + WARM_UP)
        pictures = [warm_up.picture() for _ in range(self._effort.num_at_once)]
        questions = [scripts.first(warm_up, picture) for picture in pictures]
        model = checkpoints.old_names if kind.old_names else checkpoints.plain
        load = Load(str(model), self._dtype, KV_CACHE_MB, token_ids()[IMAGE])
        try:
            self._versions[kind.name] = process.load(load).versions
            contestant.open_group(pictures, questions)
            contestant.round(scripts.round(warm_up))
        except PeerFailed as exc:
            self._leave_out(kind, str(exc))
            return None
        self._rounds[kind.name] = []
        return contestant

    def _leave_out(self, kind: PeerKind, reason: str) -> None:
        if kind is OURS:
            raise PeerFailed(f"{kind.name}: {reason}")  # nothing is left to compare with
        # Results are committed: no directory of this machine belongs into them.
        self._absent.append(Absent(kind.name, reason.replace(f"{ROOT}/", "")))
        self._rounds.pop(kind.name, None)

    def _comparison(self, num_rounds: int) -> Comparison:
        ours = self._rounds.get(OURS.name, [])
        return Comparison(
            shape=self._shape.name,
            dtype=self._dtype,
            num_image_tokens=self._shape.num_image_tokens,
            effort=self._effort,
            num_rounds=num_rounds,
            peers=tuple(
                peer_figures(kind, self._versions[kind.name], self._rounds[kind.name], ours)
                for kind in PEERS
                if kind.name in self._rounds
            ),
            absent=tuple(self._absent),
            ratios=ratios(self._rounds),
        )


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(EFFORTS)}.")] = "221m",
    *,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32 or bfloat16; may be repeated. Default: both.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Only peers whose names begin so, beside ours; may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    core: Annotated[int, typer.Option(help="To keep all peers on; -1: the last one.")] = -1,
    seed: Seed = 0,
    environments: Annotated[
        Path, typer.Option(help="Folder of the peers' environments.")
    ] = ENVIRONMENTS,
    out: Out = RESULTS,
) -> None:
    """Measure, print tables, and keep the figures as JSON."""
    console = Console()
    seed = choose_seed(seed)
    chosen = max(os.sched_getaffinity(0)) if core < 0 else core
    kinds = [kind for kind in PEERS if kind is OURS or peer is None or _named(kind, peer)]
    load_before = load_average()
    run = partial(Run, shape, environments=environments, core=chosen, seed=seed)
    with telling(console, PeerFailed):
        comparisons = tuple(
            run(each).compare(kinds, rounds, console) for each in dtype or ["float32", "bfloat16"]
        )
    report = Report(
        taken_at=moment(),
        machine=describe_machine(),
        core=chosen,
        load_before=load_before,
        load_after=load_average(),
        seed=seed,
        comparisons=comparisons,
    )
    print_report(report, console)
    keep_run("peers", report, out, console)


def _named(kind: PeerKind, names: Sequence[str]) -> bool:
    return any(kind.name.lower().startswith(name.lower()) for name in names)


if __name__ == "__main__":
    typer.run(main)
