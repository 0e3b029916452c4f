"""Whatever clients do and the caches lose: every answer is the one of plain ``generate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.as_on_a_gpu import take_gpu_path
from tests.model.histories import Ask, Life, Round, histories
from tests.model.judge import Judge
from tests.model.reference import Reference
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import EngineInfo, Plan, StepResult
from vlm_sessions.model.native.library import load_library
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import ModelRunner, make_runner
from vlm_sessions.model.text import screen
from vlm_sessions.model.text.fused import FusedTextModel
from vlm_sessions.processing import Processor

NUM_EXAMPLES = 500
BLOCK_SIZE = 4

# what the histories must have met often enough to say something about it
REACHED = (
    "cached_tokens_total",
    "blocks_evicted_total",
    "blocks_copied_total",
    "feature_hits_total",
    "host_blocks_stored_total",
    "host_blocks_loaded_total",
)


class SmallerRunner:
    """A runner of which only the first blocks and slots are used, so that one serves caches of any
    size."""

    def __init__(self, runner: ModelRunner, num_blocks: int, num_host_blocks: int) -> None:
        self._runner = runner
        self.info: EngineInfo = msgspec.structs.replace(
            runner.info,
            num_blocks=num_blocks,
            num_host_blocks=num_host_blocks,
            max_context=min(runner.info.max_context, num_blocks * runner.info.block_size),
        )
        self.feature_bytes_per_token = runner.feature_bytes_per_token

    def execute(self, plan: Plan) -> StepResult:
        return self._runner.execute(plan)


@dataclass(frozen=True)
class Parts:
    runners: Mapping[str, ModelRunner]
    """Kernels -> a runner with them."""
    processor: Processor
    judge: Judge


@pytest.fixture(scope="module")
def parts(tiny_paths: dict[str, Path]) -> Iterator[Parts]:
    path = tiny_paths["gqa"]
    settings = Settings(
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=BLOCK_SIZE,
        kv_cache_mb=8,
        host_kv_mb=8,
        host_feature_mb=1,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        runners = {
            "usual": make_runner(settings, path),
            "screened": _screened(settings, path),
            "reference": make_runner(settings.model_copy(update={"kernels": "reference"}), path),
        }
        take_gpu_path(monkeypatch)
        runners["gpu"] = make_runner(settings, path)
        yield Parts(runners, make_processor(path), Judge(Reference(path)))


def _screened(settings: Settings, path: Path) -> ModelRunner:
    """With a screen before its head, which is far too small for one to pay."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(screen, "LEAST_BYTES", 0)
        runner = make_runner(settings, path)
    text = runner._text
    assert load_library() is None or (isinstance(text, FusedTextModel) and text.num_added_bytes)
    return runner


@dataclass(frozen=True)
class Layout:
    """Room, from ample to hardly enough for one conversation; steps, from whole to small; and what
    computes them."""

    kernels: str
    num_blocks: int
    num_host_blocks: int
    max_batch_tokens: int
    max_loads_per_step: int
    feature_bytes: int
    pixel_bytes: int
    eviction: Eviction

    def engine(self, parts: Parts) -> Engine:
        runner = SmallerRunner(parts.runners[self.kernels], self.num_blocks, self.num_host_blocks)
        limits = EngineLimits(
            max_batch_tokens=self.max_batch_tokens,
            max_loads_per_step=self.max_loads_per_step,
            feature_bytes=self.feature_bytes,
            pixel_bytes=self.pixel_bytes,
            eviction=self.eviction,
        )
        return Engine(runner, limits)


LAYOUTS = st.builds(
    Layout,
    kernels=st.sampled_from(["usual", "screened", "gpu", "reference"]),
    num_blocks=st.sampled_from([28, 48, 200]),
    num_host_blocks=st.sampled_from([0, 6, 60]),
    max_batch_tokens=st.sampled_from([16, 48, 512]),
    max_loads_per_step=st.sampled_from([1, 32]),
    feature_bytes=st.sampled_from([0, 8192, 1 << 20]),
    pixel_bytes=st.sampled_from([0, 1 << 20]),
    eviction=st.sampled_from(Eviction),
)


@pytest.mark.timeout(900)  # half a minute on a quiet machine
def test_any_history_is_answered_as_generate_answers(parts: Parts) -> None:
    reached: Counter[str] = Counter()

    @settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
    @given(history=histories(), layout=LAYOUTS)
    def live(history: list[Round], layout: Layout) -> None:
        engine = layout.engine(parts)
        Life(engine, parts.processor, parts.judge).live(history)
        reached.update(msgspec.structs.asdict(engine.stats()))

    live()
    for name in REACHED:
        assert reached[name] > NUM_EXAMPLES // 50, f"the histories hardly show {name}"


def test_a_crowd_that_outgrows_the_pool_is_answered_as_generate_answers(parts: Parts) -> None:
    runner = SmallerRunner(parts.runners["usual"], num_blocks=28, num_host_blocks=0)
    engine = Engine(runner, EngineLimits(max_batch_tokens=64))
    crowd = tuple(
        Ask(session, session % 3, 0, False, 24, ignore_eos=True, delay=0, cancel_after=None)
        for session in range(4)
    )
    Life(engine, parts.processor, parts.judge).live([Round((), crowd)])
    assert engine.stats().preemptions_total > 0
