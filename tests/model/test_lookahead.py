"""A decoding step is laid out before its tokens are known, and only what was presumed is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.as_on_a_gpu import take_gpu_path
from tests.model.exactness import make_engine
from tests.model.tiny import GQA
from vlm_sessions.engine.types import Draw, Sampling, TokenOut, TokenSpan, Turn
from vlm_sessions.model.attention.paged import PagedAttention, PagedStep
from vlm_sessions.model.attention.paged_call import plain_kernel
from vlm_sessions.model.kv_cache import KVCache, KVShape, Layout
from vlm_sessions.model.lookahead import Lookahead
from vlm_sessions.model.runner import ModelRunner

BLOCK_SIZE = 4
DRAW = Draw(Sampling(max_new_tokens=9), 0)
NUM_TOKENS = 24


def test_while_answers_run_every_step_but_the_first_is_there_beforehand(
    tiny_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_gpu_path(monkeypatch)
    engine = make_engine(tiny_paths[GQA.name])
    runner = engine.runner
    assert isinstance(runner, ModelRunner)
    assert runner._lookahead is not None
    sampling = Sampling(max_new_tokens=NUM_TOKENS, ignore_eos=True)
    for number in range(3):
        engine.add(Turn(str(number), tuple(range(20, 27 + number)), (), sampling))
    num_answered = 0
    while engine.has_work:
        num_answered += sum(isinstance(event, TokenOut) for event in engine.step())
    assert num_answered == 3 * NUM_TOKENS
    assert runner._lookahead.num_used == NUM_TOKENS - 1


@pytest.fixture
def lookahead() -> Lookahead:
    shape = KVShape(num_layers=1, num_kv_heads=1, head_dim=8, dtype=torch.float32)
    cache = KVCache(
        shape,
        num_blocks=8,
        block_size=BLOCK_SIZE,
        device=torch.device("cpu"),
        layout=Layout.TOKENS_FIRST,
    )
    return Lookahead(PagedAttention(cache, plain_kernel, scale=1.0), BLOCK_SIZE)


def span(name: str, start: int, *blocks: int, num_tokens: int = 1) -> TokenSpan:
    return TokenSpan(name, (5,) * num_tokens, start, blocks, draw=DRAW)


def test_a_block_for_later_changes_nothing(lookahead: Lookahead) -> None:
    lookahead.prepare([span("a", 2, 0)], torch.tensor([7]))
    assert lookahead.take([span("a", 3, 0, 6)]) is not None


def test_what_was_presumed_is_used_once(lookahead: Lookahead) -> None:
    drawn = torch.tensor([7, 8])
    lookahead.prepare([span("a", 2, 0), span("b", 0, 3, 4, num_tokens=5)], drawn)
    following = [span("a", 3, 0), span("b", 5, 3, 4)]
    prepared = lookahead.take(following)
    assert prepared is not None
    assert prepared.tokens is drawn
    assert isinstance(prepared.step, PagedStep)
    assert prepared.step.positions.tolist() == [3, 5]
    assert prepared.step.slots.tolist() == [3, 17]
    assert lookahead.take(following) is None


@pytest.mark.parametrize(
    "came",
    [
        [span("a", 3, 0)],
        [span("a", 3, 0), span("b", 1, 3), span("c", 0, 5)],
        [span("b", 1, 3), span("a", 3, 0)],
        [span("a", 3, 6), span("b", 1, 3)],
        [span("a", 2, 0), span("b", 1, 3)],
        [span("a", 3, 0), span("b", 1, 3, num_tokens=2)],
    ],
    ids=["one ended", "one began", "other order", "other block", "not advanced", "more tokens"],
)
def test_a_step_that_is_another_one_is_laid_out_anew(
    lookahead: Lookahead, came: list[TokenSpan]
) -> None:
    lookahead.prepare([span("a", 2, 0), span("b", 0, 3)], torch.tensor([7, 8]))
    assert lookahead.take(came) is None


def test_nothing_is_presumed_where_a_block_is_missing_or_a_prompt_goes_on(
    lookahead: Lookahead,
) -> None:
    full, unfinished = span("a", 3, 0), TokenSpan("b", (5,), 0, (3,))
    for spans, tokens in (([full], [7]), ([span("c", 1, 2), unfinished], [7])):
        lookahead.prepare(spans, torch.tensor(tokens))
        assert lookahead.take([span("a", 4, 0), span("c", 2, 2)]) is None
        assert lookahead.take([span("a", 4, 0)]) is None
    assert lookahead.num_used == 0
