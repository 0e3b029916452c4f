"""The path for GPUs, on the CPU: its planning, sharing and replaying with a plain kernel inside.

The kernels themselves are held against the plain one by ``tests/gpu``, and Triton's in its
interpreter here where Triton is installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.as_on_a_gpu import CallAgain, take_gpu_path
from tests.model.exactness import branch_and_compare, hold_and_compare, make_engine
from tests.model.tiny import GQA
from vlm_sessions.config import Settings
from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.gpu import probe
from vlm_sessions.model.attention.interface import AttentionBackend
from vlm_sessions.model.attention.layout import lay_out
from vlm_sessions.model.attention.paged import PagedAttention, PagedStep
from vlm_sessions.model.attention.paged_call import PagedCall, PagedKernel, merge, plain_kernel
from vlm_sessions.model.attention.reference import ReferenceAttention
from vlm_sessions.model.attention.shared_prefixes import SharedPrefix, find_shared_prefixes
from vlm_sessions.model.kv_cache import KVCache, KVShape, Layout
from vlm_sessions.model.text.graphs import GraphedTextModel, Replay, batch_sizes
from vlm_sessions.model.text.interface import Bar

CPU = torch.device("cpu")
SHAPE = KVShape(num_layers=2, num_kv_heads=2, head_dim=16, dtype=torch.float32)
BLOCK_SIZE, NUM_BLOCKS, NUM_HEADS = 4, 512, 4


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallAgain]:
    """Runners take the GPU's path, with the plain kernel."""
    capture = take_gpu_path(monkeypatch)
    yield capture
    assert capture.num_replayed > 0
    assert capture.num_captured < capture.num_replayed


@pytest.mark.parametrize("num_sessions", [1, 8])
def test_sessions_answer_as_generate_does(
    tiny_path: Path, num_sessions: int, as_on_a_gpu: CallAgain
) -> None:
    hold_and_compare(tiny_path, make_engine(tiny_path), num_sessions=num_sessions)


def test_forked_and_rewound_sessions_answer_as_generate_does(
    tiny_paths: dict[str, Path], as_on_a_gpu: CallAgain
) -> None:
    """They share beginnings of many lengths, and so many kinds of cuts."""
    path = tiny_paths[GQA.name]
    branch_and_compare(path, make_engine(path), seed=1)


# --- shared prefixes ------------------------------------------------------------------------------


def decoding(*tables: Sequence[int]) -> list[TokenSpan]:
    """Spans of one token each, in the last slot of their tables."""
    return [TokenSpan("", (1,), len(t) * BLOCK_SIZE - 1, tuple(t)) for t in tables]


def test_of_a_tree_of_beginnings_the_cut_that_saves_most_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vlm_sessions.model.attention.shared_prefixes.LEAST_SAVED", 1)
    system, one, other = [0], [1, 2, 3, 4], [5, 6, 7, 8]
    spans = decoding(
        system + one + [10], system + other + [11], system + one + [12], system + other + [13]
    )
    assert find_shared_prefixes(spans, BLOCK_SIZE) == [
        SharedPrefix((0, 2), (0, 1, 2, 3, 4)),
        SharedPrefix((1, 3), (0, 5, 6, 7, 8)),
    ]
    # A long common beginning and short differences: one cut for all of them.
    spans = decoding([*one, 10, 11], [*one, 12, 13], [*one, 10, 14])
    assert find_shared_prefixes(spans, BLOCK_SIZE) == [SharedPrefix((0, 1, 2), (1, 2, 3, 4))]


def test_little_to_save_is_not_worth_a_cut() -> None:
    def shared(num_blocks: int, block_size: int) -> list[SharedPrefix]:
        tables = [(*range(num_blocks), 10), (*range(num_blocks), 11)]
        start = num_blocks * block_size
        return find_shared_prefixes([TokenSpan("", (1,), start, t) for t in tables], block_size)

    assert shared(4, 64) == [SharedPrefix((0, 1), (0, 1, 2, 3))]
    assert shared(4, 63) == []
    assert shared(0, 64) == []


def test_a_block_that_a_span_still_writes_to_is_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vlm_sessions.model.attention.shared_prefixes.LEAST_SAVED", 1)
    prompt = TokenSpan("", (1,) * 6, 5, (0, 1, 2))  # from within block 1 on
    shared = find_shared_prefixes([prompt, *decoding([0, 1, 3])], BLOCK_SIZE)
    assert shared == [SharedPrefix((0, 1), (0,))]


# --- the backend against the reference ------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # which common beginning
        st.integers(0, 7),  # how many blocks of it
        st.integers(0, 9),  # tokens of its own before the span
        st.integers(1, 9),  # tokens of the span
    ),
    min_size=1,
    max_size=7,
)


@given(steps, st.randoms(use_true_random=False))
def test_any_step_attends_as_the_reference_does(
    parts: list[tuple[int, int, int, int]], rng: random.Random
) -> None:
    free = list(range(NUM_BLOCKS))
    rng.shuffle(free)
    beginnings = [[free.pop() for _ in range(7)] for _ in range(3)]
    spans = []
    for which, num_common, num_own, num_tokens in parts:
        start = num_common * BLOCK_SIZE + num_own
        num_blocks = -(-(start + num_tokens) // BLOCK_SIZE) + rng.randrange(2)
        own = [free.pop() for _ in range(num_blocks - num_common)]
        table = (*beginnings[which][:num_common], *own)
        spans.append(TokenSpan("", (1,) * num_tokens, start, table))
    generator = torch.Generator().manual_seed(0)
    caches = [
        KVCache(SHAPE, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, device=CPU, layout=layout)
        for layout in (Layout.HEADS_FIRST, Layout.TOKENS_FIRST)
    ]
    for cache in caches:
        cache.keys.copy_(torch.randn(cache.keys.shape, generator=generator.manual_seed(1)))
        cache.values.copy_(torch.randn(cache.keys.shape, generator=generator.manual_seed(2)))
    num_tokens = sum(len(span.tokens) for span in spans)
    heads = NUM_HEADS + 2 * SHAPE.num_kv_heads
    row = torch.randn(num_tokens, heads, SHAPE.head_dim, generator=generator)
    queries, keys_values = row[:, :NUM_HEADS], row[:, NUM_HEADS:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_sessions.model.attention.shared_prefixes.LEAST_SAVED", 1)
        expected, got = (
            backend.plan(spans).attend(1, queries, keys_values)
            for backend in (
                ReferenceAttention(caches[0], scale=0.25),
                PagedAttention(caches[1], plain_kernel, scale=0.25),
            )
        )
    assert (got - expected).abs().max() < 1e-5
    assert torch.equal(caches[0].keys, caches[1].keys)
    written = torch.tensor(lay_out(spans, BLOCK_SIZE).slots)
    by_one, by_other = (cache.slots(1)[:, :, written] for cache in caches)
    assert torch.equal(by_one, by_other)
    is_cleared = caches[0].values != caches[1].values
    assert (caches[1].values[is_cleared] == 0).all(), "what is read whole, and nothing else"


def test_a_block_copied_in_part_holds_no_values_of_others_behind_it() -> None:
    """A paged kernel reads it whole."""
    cache = KVCache(
        SHAPE, num_blocks=3, block_size=BLOCK_SIZE, device=CPU, layout=Layout.TOKENS_FIRST
    )
    cache.bits.fill_(float("nan"))
    cache.bits[:, :, :, 0] = 7.0
    cache.copy(0, 2, 3)
    assert (cache.bits[:, :, :, 2, :3] == 7.0).all()
    assert (cache.values[:, :, 2, 3:] == 0).all()


def test_keys_and_values_of_8_bits_are_scaled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_sessions.model.attention.shared_prefixes.LEAST_SAVED", 1)
    shape = replace(SHAPE, dtype=torch.float8_e4m3fn)
    scales = torch.rand(shape.num_layers, 2, shape.num_kv_heads) + 0.1
    spans = [*decoding([1, 2, 3], [1, 2, 4]), TokenSpan("", (1,) * 6, 9, (1, 2, 5, 6))]
    row = torch.randn(8, NUM_HEADS + 2 * shape.num_kv_heads, shape.head_dim)
    attended = []
    for layout in Layout:
        cache = KVCache(shape, num_blocks=9, block_size=4, device=CPU, layout=layout, scales=scales)
        cache.write(1, torch.arange(36), torch.randn(36, 4, 16, generator=_seeded()) * 3)
        cache.copy(1, 8, 3)
        backend: AttentionBackend = ReferenceAttention(cache, scale=0.25)
        if layout is Layout.TOKENS_FIRST:
            backend = PagedAttention(cache, plain_kernel, scale=0.25)
        step = backend.plan(spans)
        attended.append(step.attend(1, row[:, :NUM_HEADS], row[:, NUM_HEADS:]))
        assert cache.keys[1, :, 8].float().abs().sum() > 0
    assert (attended[0] - attended[1]).abs().max() < 1e-5


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_what_is_shared_is_read_once() -> None:
    read: list[int] = []

    def counting(
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        call: PagedCall,
        *,
        scale: float,
        kv_scales: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(int(call.lengths.sum()))
        return plain_kernel(queries, keys, values, call, scale=scale, kv_scales=kv_scales)

    common = list(range(100))
    spans = decoding(*([*common, 100 + number] for number in range(8)))
    cache = KVCache(
        SHAPE, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, device=CPU, layout=Layout.TOKENS_FIRST
    )
    row = torch.randn(8, NUM_HEADS + 2 * SHAPE.num_kv_heads, SHAPE.head_dim)
    PagedAttention(cache, counting, scale=0.25).plan(spans).attend(
        0, row[:, :NUM_HEADS], row[:, NUM_HEADS:]
    )
    assert sum(read) == len(common) * BLOCK_SIZE + 8 * BLOCK_SIZE


def test_merging_parts_of_a_context_gives_the_whole() -> None:
    queries = torch.randn(3, NUM_HEADS, 16)
    keys, values = torch.randn(2, 6, BLOCK_SIZE, SHAPE.num_kv_heads, 16)

    def attend(*pages: int) -> tuple[torch.Tensor, torch.Tensor]:
        call = PagedCall(
            starts=torch.tensor([0, 3]),
            tables=torch.tensor([pages]),
            lengths=torch.tensor([len(pages) * BLOCK_SIZE]),
            max_queries=3,
            max_length=99,
            causal=False,
        )
        return plain_kernel(queries, keys, values, call, scale=0.25)

    parts = merge(*attend(4, 1), *attend(0, 2, 5))
    assert (parts - attend(4, 1, 0, 2, 5)[0]).abs().max() < 1e-6
    nothing = torch.zeros(3, NUM_HEADS, 16), torch.full((3, NUM_HEADS), float("-inf"))
    assert torch.equal(merge(*attend(3), *nothing), attend(3)[0])


# --- replaying ------------------------------------------------------------------------------------


def test_batches_are_padded_by_half_at_most_and_the_largest_fits() -> None:
    for largest in (1, 7, 64, 200, 1000):
        sizes = batch_sizes(largest)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == largest
        for number in range(1, largest + 1):
            assert next(size for size in sizes if size >= number) <= max(2 * number - 1, 1)


class SumOfContext:
    """A text model of one layer, whose hidden states tell all that its attention saw."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, None].float().repeat(1, NUM_HEADS * SHAPE.head_dim)

    def forward(self, embeds: torch.Tensor, step: object) -> torch.Tensor:
        assert isinstance(step, PagedStep)
        queries = embeds.view(len(embeds), NUM_HEADS, SHAPE.head_dim)
        keys_values = queries[:, :1].repeat(1, 2 * SHAPE.num_kv_heads, 1)
        return step.attend(0, queries, keys_values).flatten(1) + step.positions[:, None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor:
        bar(hidden)
        return hidden.argmax(dim=-1)


def test_padding_writes_to_no_block_of_anyone() -> None:
    cache = KVCache(
        SHAPE, num_blocks=40, block_size=BLOCK_SIZE, device=CPU, layout=Layout.TOKENS_FIRST
    )
    backend = PagedAttention(cache, plain_kernel, scale=0.25)
    inner, capture = SumOfContext(), CallAgain()
    graphed = GraphedTextModel(inner, capture, largest=8, max_context=64)
    # Eight rows, then three: the buffers of the larger step must leave nothing behind.
    for tables in ([[number, 20 + number] for number in range(8)], [[1, 9], [2, 10], [3, 11]]):
        spans = decoding(*tables)
        embeds = torch.randn(len(spans), NUM_HEADS * SHAPE.head_dim)
        before = cache.keys.clone()
        got = graphed.forward(embeds, backend.plan(spans)).clone()
        written = (cache.keys != before).any(dim=-1).any(dim=(0, 1)).any(dim=-1).nonzero()
        assert set(written.flatten().tolist()) - {39} == {table[1] for table in tables}
        assert torch.equal(got, inner.forward(embeds, backend.plan(spans)))


def test_prompts_and_batches_too_large_are_not_replayed() -> None:
    cache = KVCache(
        SHAPE, num_blocks=40, block_size=BLOCK_SIZE, device=CPU, layout=Layout.TOKENS_FIRST
    )
    backend = PagedAttention(cache, plain_kernel, scale=0.25)
    capture = CallAgain()
    graphed = GraphedTextModel(SumOfContext(), capture, largest=2, max_context=64)
    prompt = [TokenSpan("", (1, 2), 3, (0, 1)), *decoding([3])]
    for spans in (prompt, decoding([1], [2], [3])):
        num_tokens = sum(len(span.tokens) for span in spans)
        embeds = torch.randn(num_tokens, NUM_HEADS * SHAPE.head_dim)
        graphed.forward(embeds, backend.plan(spans))
    assert capture.num_captured == 0


def test_a_device_that_cannot_capture_decodes_without_graphs() -> None:
    cache = KVCache(
        SHAPE, num_blocks=40, block_size=BLOCK_SIZE, device=CPU, layout=Layout.TOKENS_FIRST
    )
    attempts = []

    def refuse(work: Callable[[], torch.Tensor]) -> Replay:
        attempts.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    backend = PagedAttention(cache, plain_kernel, scale=0.25)
    graphed = GraphedTextModel(SumOfContext(), refuse, largest=8, max_context=64)
    embeds = torch.randn(1, NUM_HEADS * SHAPE.head_dim)
    for _ in range(2):
        hidden = graphed.forward(embeds, backend.plan(decoding([1])))
        assert torch.equal(hidden, SumOfContext().forward(embeds, backend.plan(decoding([1]))))
    assert len(attempts) == 1


# --- which kernel ---------------------------------------------------------------------------------


def test_a_kernel_that_errs_is_found_out() -> None:
    def careless(
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        call: PagedCall,
        *,
        scale: float,
        kv_scales: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = plain_kernel(queries, keys, values, call, scale=scale, kv_scales=kv_scales)
        out[-1, -1, -1] += 0.01
        return out, lse

    def error(kernel: PagedKernel) -> float:
        return probe(
            kernel,
            Settings(block_size=16),
            SHAPE,
            num_heads=NUM_HEADS,
            dtype=torch.float32,
            device=CPU,
        )

    assert error(plain_kernel) == 0
    assert error(careless) > 0.005
