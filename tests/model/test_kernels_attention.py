"""Attention where contexts lie gives what plain attention over gathered ones gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.flat import FlatAttention
from vlm_sessions.model.attention.interface import AttentionBackend
from vlm_sessions.model.attention.piece_kernels import (
    fused,
    has_fused,
    native_for_few,
    products_for_few,
    two_products,
)
from vlm_sessions.model.attention.pieces import Kernel, Partial
from vlm_sessions.model.attention.reference import ReferenceAttention
from vlm_sessions.model.attention.runs import RunAttention, cut_runs
from vlm_sessions.model.kv_cache import KVCache, KVShape
from vlm_sessions.model.native.library import Library, load_library

SIZE, NUM_BLOCKS, HEAD_DIM = 16, 200, 32
SCALE = HEAD_DIM**-0.5
LAYER = 1
CPU = torch.device("cpu")
LIBRARY = load_library()
KERNELS = [
    two_products,
    *([fused, products_for_few] if has_fused() else []),
    *([native_for_few(LIBRARY, two_products, 16)] if LIBRARY else []),
]


def by_runs(kernel: Kernel) -> Callable[[KVCache], AttentionBackend]:
    return lambda cache: RunAttention(cache, kernel, scale=SCALE)


def flat(library: Library) -> Callable[[KVCache], AttentionBackend]:
    """In one call, where a step has few rows."""
    return lambda cache: FlatAttention(
        library, cache, RunAttention(cache, two_products, scale=SCALE), scale=SCALE
    )


BACKENDS = {kernel.__name__: by_runs(kernel) for kernel in KERNELS}
if LIBRARY:
    BACKENDS["flat"] = flat(LIBRARY)
NUM_KV_HEADS = (1, 2, 4)  # of 4 heads: all share one, pairs share, each has its own

Spans = Sequence[TokenSpan]


def span(name: str, blocks: Sequence[int], start: int, num_tokens: int = 1) -> TokenSpan:
    return TokenSpan(name, (0,) * num_tokens, start, tuple(blocks))


SCATTERED = random.Random(0).sample(range(NUM_BLOCKS), 40)
PICTURE = range(100, 112)  # 192 tokens
CASES: dict[str, Spans] = {
    "one_run": [span("a", range(5, 30), 350)],
    "several_runs": [span("a", [*range(40, 50), *range(20, 30), 3], 330)],
    "scattered": [span("a", SCATTERED, 600)],
    "a_run_and_scattered": [span("a", [*range(60, 80), 5, 3, 90, 7], 370)],
    "its_first_token": [span("a", [7], 0)],
    "first_of_a_block": [span("a", [7, 8], SIZE)],
    "short_beside_long": [span("a", range(30), 470), span("b", [50], 3), span("c", [60, 61], 20)],
    "a_prompt": [span("a", range(5), 0, 70)],
    "a_prompt_after_a_context": [span("a", [*range(10, 20), 3, 5], 163, 19)],
    "prompts_and_decodes": [
        span("a", range(30), 470),
        span("b", SCATTERED[:10], 100, 30),
        span("c", range(150, 156), 0, 90),
        span("d", range(160, 170), 133),
    ],
    "a_shared_picture": [
        span(str(n), [*PICTURE, *range(20 * n, 20 * n + 3)], 200 + 7 * n) for n in range(4)
    ],
    "a_shared_picture_asked_and_answered_about": [
        span("a", [*PICTURE, 1, 2], 200, 20),
        span("other", range(150, 170), 300),
        span("b", [*PICTURE, 3, 4], 205),
        span("c", [*PICTURE, 5], 192),
        span("d", [*PICTURE, 6, 7], 192, 20),
    ],
    "two_pictures_under_one_system_text": [
        span("a", [0, 1, *PICTURE, 2], 230),
        span("x", [0, 1, *range(120, 132), 3], 225),
        span("b", [0, 1, *PICTURE, 4], 226, 3),
        span("y", [0, 1, *range(120, 132), 5], 227),
    ],
}


class Both:
    """Two backends over pools that hold the same."""

    def __init__(
        self,
        make: Callable[[KVCache], AttentionBackend],
        num_kv_heads: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(0)
        shape = KVShape(2, num_kv_heads, HEAD_DIM, dtype)
        self.caches = [
            KVCache(shape, num_blocks=NUM_BLOCKS, block_size=SIZE, device=CPU) for _ in range(2)
        ]
        held = torch.randn_like(self.caches[0].keys), torch.randn_like(self.caches[0].values)
        for cache in self.caches:
            cache.keys.copy_(held[0])
            cache.values.copy_(held[1])
        self.tried = make(self.caches[0])
        self.reference: AttentionBackend = ReferenceAttention(self.caches[1], scale=SCALE)
        self._num_kv_heads = num_kv_heads
        self._dtype = dtype

    def attend(self, spans: Spans) -> tuple[torch.Tensor, torch.Tensor]:
        num_tokens = sum(len(s.tokens) for s in spans)
        num_heads = 4 + 2 * self._num_kv_heads
        # As a text model has them: parts of one row.
        row = torch.randn(num_tokens, num_heads, HEAD_DIM, dtype=self._dtype)
        attended = [
            backend.plan(spans).attend(LAYER, row[:, :4], row[:, 4:])
            for backend in (self.tried, self.reference)
        ]
        return attended[0], attended[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_kv_heads", NUM_KV_HEADS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_blocks_can_lie_gives_what_plain_attention_gives(
    backend: str, num_kv_heads: int, case: str
) -> None:
    both = Both(BACKENDS[backend], num_kv_heads)
    attended, expected = both.attend(CASES[case])
    assert (attended - expected).abs().max() < 1e-5
    assert torch.equal(both.caches[0].keys, both.caches[1].keys)
    assert torch.equal(both.caches[0].values, both.caches[1].values)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(20))
def test_any_step_gives_what_plain_attention_gives(seed: int, backend: str) -> None:
    rng = random.Random(seed)
    free = list(range(NUM_BLOCKS))
    if rng.random() < 0.5:
        rng.shuffle(free)
    common = [free.pop(0) for _ in range(rng.choice([1, 5, 20]))]
    spans = []
    for name in "abcdef"[: rng.randint(1, 6)]:
        start, num_tokens = rng.randrange(400), rng.choice([1, 1, 1, 2, 19])
        num_blocks = -(-(start + num_tokens) // SIZE)
        shared = common[: start // SIZE] if rng.random() < 0.6 else []
        spans.append(
            span(
                name,
                shared + [free.pop(0) for _ in range(num_blocks - len(shared))],
                start,
                num_tokens,
            )
        )
    attended, expected = Both(BACKENDS[backend], rng.choice(NUM_KV_HEADS)).attend(spans)
    assert (attended - expected).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_stays_as_close_as_its_digits_allow(backend: str) -> None:
    both = Both(BACKENDS[backend], 2, torch.bfloat16)
    for case in CASES.values():
        attended, expected = both.attend(case)
        assert (attended - expected).abs().max() < 0.03


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_slots_beyond_a_context_are_never_read(backend: str, case: str) -> None:
    """Another conversation may have left anything there, and 0 · NaN is NaN."""
    both = Both(BACKENDS[backend], 2)
    spans = CASES[case]
    needed = {
        slot
        for s in spans
        for run in cut_runs(s.blocks, s.start + len(s.tokens), SIZE)
        for slot in run
    }
    beyond = torch.tensor(sorted(set(range(NUM_BLOCKS * SIZE)) - needed))
    both.caches[0].slots(LAYER)[:, :, beyond] = float("nan")
    attended, expected = both.attend(spans)
    assert (attended - expected).abs().max() < 1e-5


def test_a_shared_prefix_is_read_once_for_all_who_share_it() -> None:
    lengths: list[int] = []

    def counting(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> Partial:
        lengths.append(k.shape[1])
        return two_products(q, k, v, scale, causal)

    both = Both(by_runs(counting), 4)
    both.attend(CASES["a_shared_picture"])
    assert sorted(lengths) == sorted([192, *(9 + 7 * n for n in range(4))])


def test_a_run_is_read_where_it_lies() -> None:
    seen: list[tuple[int, int]] = []

    def looking(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> Partial:
        seen.append((k.untyped_storage().data_ptr(), v.untyped_storage().data_ptr()))
        return two_products(q, k, v, scale, causal)

    both = Both(by_runs(looking), 4)
    both.attend(CASES["several_runs"])
    pool = both.caches[0].keys.untyped_storage().data_ptr()
    assert seen == [(pool, pool)] * 3


def test_short_runs_are_copied_together() -> None:
    lengths: list[int] = []

    def counting(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> Partial:
        lengths.append(k.shape[1])
        return two_products(q, k, v, scale, causal)

    Both(by_runs(counting), 4).attend(CASES["a_run_and_scattered"])
    assert lengths == [320, 51]


def test_a_table_is_cut_where_its_blocks_do_not_follow_each_other() -> None:
    assert cut_runs([7, 8, 3, 4, 9], 70, 16) == [range(112, 144), range(48, 80), range(144, 150)]
    assert cut_runs([7, 8, 3], 20, 16) == [range(112, 132)]
    assert cut_runs([7], 0, 16) == []
