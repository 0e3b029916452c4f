"""A greedy choice by a screen in 8 bits is the one among all logits, whatever the weights are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_sessions.model.native import build
from vlm_sessions.model.native.library import Library
from vlm_sessions.model.text import screen as screen_module
from vlm_sessions.model.text.screen import Screen, make_screen

BUILT = {build.kind(path): Library(path) for path in build.usable()}
pytestmark = pytest.mark.skipif(not BUILT, reason="the kernels are not built")

VOCAB, HIDDEN = 1024, 64
DTYPES = [torch.float32, torch.bfloat16]


def bar_nothing(_: torch.Tensor) -> None:
    pass


def greedy(
    screen: Screen, library: Library, weight: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """By the screen, and from all logits."""
    return screen.greedy(hidden, bar_nothing), library.linear(hidden, weight).argmax(dim=-1)


@st.composite
def heads(draw: st.DrawFn) -> torch.Tensor:
    """Weights of tokens as they are, nearly alike, exactly alike, of very different lengths, with
    numbers that stand out, or nothing."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    kind = draw(st.sampled_from(["plain", "close", "equal", "lengths", "outliers", "zeros"]))
    some = torch.randperm(VOCAB, generator=generator)[: draw(st.integers(2, 40))]
    if kind == "close":
        weight[some] = weight[some[0]] * (1 + 1e-6 * torch.randn(len(some), 1, generator=generator))
    elif kind == "equal":
        weight[some] = 4 * weight[some[0]]
    elif kind == "lengths":
        weight *= 10 ** (4 * torch.rand(VOCAB, 1, generator=generator) - 2)
    elif kind == "outliers":
        weight[some, torch.randint(HIDDEN, (len(some),), generator=generator)] = 300.0
    elif kind == "zeros":
        weight[some] = 0
    return weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BUILT)
def test_the_choice_is_the_one_among_all_logits(kind: str, dtype: torch.dtype) -> None:
    library = BUILT[kind]
    chosen = 0

    @settings(max_examples=150, deadline=None)
    @given(heads(), st.sampled_from([1, 2, 3, 7, 8, 20, 32]), st.integers(0, 2**31))
    def compare(weight: torch.Tensor, num_rows: int, seed: int) -> None:
        nonlocal chosen
        generator = torch.Generator().manual_seed(seed)
        own = weight.to(dtype)
        hidden = torch.randn(num_rows, HIDDEN, generator=generator).to(dtype)
        # Rows that point at a token, so that those like it are close.
        hidden[::2] = own[torch.randint(VOCAB, (len(hidden[::2]),), generator=generator)]
        tokens, expected = greedy(Screen(own, library), library, own, hidden)
        if tokens is not None:
            chosen += 1
            assert tokens.tolist() == expected.tolist()

    compare()
    assert chosen > 50, "else nothing was shown"


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_tokens_are_left_of_many(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8192, 768).to(dtype)
    screen = Screen(weight, next(iter(BUILT.values())))
    for _ in range(10):
        tokens, _ = screen.candidates(torch.randn(1, 768).to(dtype), bar_nothing)
        assert tokens is not None
        assert 1 <= len(tokens) <= 64


@pytest.mark.parametrize("num_rows", [1, 3])
def test_a_token_that_is_left_alone_is_the_choice_of_every_row(num_rows: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(VOCAB, HIDDEN)
    weight[7] = 100
    screen = Screen(weight, next(iter(BUILT.values())))
    hidden = 1 + 0.1 * torch.randn(num_rows, HIDDEN)
    tokens, _ = screen.candidates(hidden, bar_nothing)
    assert tokens is not None
    assert tokens.tolist() == [7]
    chosen = screen.greedy(hidden, bar_nothing)
    assert chosen is not None
    assert chosen.tolist() == [7] * num_rows


def test_what_is_barred_is_never_chosen() -> None:
    torch.manual_seed(0)
    library = next(iter(BUILT.values()))
    weight, hidden = torch.randn(VOCAB, HIDDEN), torch.randn(3, HIDDEN)
    logits = library.linear(hidden, weight)
    best = logits.argmax(dim=-1)

    def bar(scores: torch.Tensor) -> None:
        scores[torch.arange(3), best] = float("-inf")

    bar(logits)
    tokens = Screen(weight, library).greedy(hidden, bar)
    assert tokens is not None
    assert tokens.tolist() == logits.argmax(dim=-1).tolist()
    assert not set(tokens.tolist()) & set(best.tolist())


def test_a_row_that_is_not_all_numbers_or_a_head_of_equals_is_left_to_all_logits() -> None:
    library = next(iter(BUILT.values()))
    screen = Screen(torch.randn(VOCAB, HIDDEN), library)
    for num_rows in (1, 3):
        undefined = torch.full((num_rows, HIDDEN), float("nan"))
        assert screen.greedy(undefined, bar_nothing) is None
        assert screen.greedy(undefined.fill_(float("inf")), bar_nothing) is None
    assert screen.greedy(torch.full((1, HIDDEN), 1e-20), bar_nothing) is None
    one_of_three = torch.randn(3, HIDDEN)
    one_of_three[1, 5] = float("nan")
    assert screen.greedy(one_of_three, bar_nothing) is None
    equals = Screen(torch.ones(VOCAB, HIDDEN), library)
    assert equals.greedy(torch.randn(2, HIDDEN), bar_nothing) is None


def test_only_a_large_head_without_biases_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    library = next(iter(BUILT.values()))
    weight = torch.randn(VOCAB, HIDDEN)
    assert make_screen(weight, None, library) is None, "its memory is read in no time"
    monkeypatch.setattr(screen_module, "LEAST_BYTES", weight.nbytes)
    screen = make_screen(weight, None, library)
    assert screen is not None
    assert screen.num_bytes == VOCAB * (HIDDEN + 8)
    assert make_screen(weight, torch.zeros(VOCAB), library) is None
    assert make_screen(weight, None, None) is None
    assert make_screen(weight[:-1], None, library) is None, "not a multiple of what it multiplies"
