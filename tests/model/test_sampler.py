"""Which token is drawn: by its probability, by seed and index, and by nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_sessions.engine.types import Draw, Sampling
from vlm_sessions.model.sampler import Sampler, distribution, draw_one, uniform

CPU = torch.device("cpu")
VOCABULARY = 50
EOS, IMAGE = 7, 9


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(eos_ids=(EOS,), never=(IMAGE,), device=CPU)


def random_logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3


def test_a_temperature_of_zero_takes_the_most_probable(sampler: Sampler) -> None:
    logits = random_logits(4)
    logits[:, IMAGE] = -100
    greedy = Draw(Sampling(max_new_tokens=1, top_k=3, seed=5), 0)
    assert sampler.sample(logits, [greedy] * 4) == logits.argmax(dim=-1).tolist()


def test_a_draw_does_not_depend_on_the_batch(sampler: Sampler) -> None:
    logits = random_logits(16)
    draws = [
        Draw(Sampling(max_new_tokens=9, temperature=0.3 * n, top_p=0.9, seed=n), n)
        for n in range(16)
    ]
    together = sampler.sample(logits, draws)
    alone = [sampler.sample(logits[n : n + 1], draws[n : n + 1])[0] for n in range(16)]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2)).tolist()
    shuffled = sampler.sample(logits[order], [draws[n] for n in order])
    assert together == alone
    assert shuffled == [together[n] for n in order]


def test_seed_and_index_each_change_the_draw() -> None:
    numbers = {uniform(seed, index) for seed in range(30) for index in range(30)}
    assert len(numbers) == 900
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 900 - 0.5) < 0.03


def test_the_most_probable_and_the_fewest_that_reach_top_p_remain() -> None:
    logits = random_logits(1)[0]
    sampling = Sampling(max_new_tokens=1, temperature=0.7, top_p=0.8, top_k=12)
    probabilities, tokens = distribution(logits, sampling)

    expected = torch.softmax(logits.double() / 0.7, dim=-1)
    best = sorted(range(VOCABULARY), key=lambda token: -expected[token])[:12]
    renormalised = expected[best] / expected[best].sum()
    kept: list[int] = []
    while not kept or renormalised[: len(kept)].sum() < 0.8:
        kept.append(best[len(kept)])
    assert tokens.tolist() == kept
    wanted = renormalised[: len(kept)] / renormalised[: len(kept)].sum()
    assert torch.allclose(probabilities, wanted, atol=1e-12)


def test_draws_follow_the_distribution(sampler: Sampler) -> None:
    logits = random_logits(1)
    logits[0, IMAGE] = float("-inf")
    sampling = Sampling(max_new_tokens=1, temperature=1.5, top_k=8)
    num_draws = 4000
    draws = [Draw(sampling, index) for index in range(num_draws)]
    drawn = Counter(sampler.sample(logits.repeat(num_draws, 1), draws))
    probabilities, tokens = distribution(logits[0], sampling)
    assert set(drawn) <= set(tokens.tolist())
    for token, probability in zip(tokens.tolist(), probabilities.tolist(), strict=True):
        assert abs(drawn[token] / num_draws - probability) < 0.03


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ignoring_the_end_never_draws_it(sampler: Sampler, temperature: float) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, EOS] = 50
    draws = [
        Draw(Sampling(max_new_tokens=1, temperature=temperature, ignore_eos=ignore), 0)
        for ignore in (True, False)
    ]
    ignored, ended = sampler.sample(logits, draws)
    assert ignored != EOS
    assert ended == EOS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_placeholder_of_an_image_is_never_an_answer(
    sampler: Sampler, temperature: float
) -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[:, IMAGE] = 50
    draw = Draw(Sampling(max_new_tokens=1, temperature=temperature), 0)
    assert sampler.sample(logits, [draw])[0] != IMAGE


def test_the_smallest_temperature_is_nearly_greedy(sampler: Sampler) -> None:
    logits = random_logits(1)
    logits[0, IMAGE] = -100
    draw = Draw(Sampling(max_new_tokens=1, temperature=1e-6, seed=3), 4)
    assert sampler.sample(logits, [draw]) == logits.argmax(dim=-1).tolist()


samplings = st.builds(
    Sampling,
    max_new_tokens=st.just(1),
    temperature=st.one_of(st.just(0.0), st.floats(1e-6, 5.0)),
    top_p=st.one_of(st.just(1.0), st.floats(0.0, 1.0, exclude_min=True)),
    top_k=st.integers(0, VOCABULARY + 2),
    seed=st.integers(0, 2**63 - 1),
    ignore_eos=st.booleans(),
)
# Few values that often meet, besides any: equal logits are where an order could slip.
logit = st.one_of(st.sampled_from([0.0, 1.0, -2.5, float("-inf")]), st.floats(-80, 80, width=32))
rows = st.lists(
    st.tuples(st.lists(logit, min_size=12, max_size=12), st.builds(Draw, samplings, st.just(3))),
    min_size=1,
    max_size=6,
)


@given(rows)
def test_a_batch_is_drawn_as_each_row_alone_would_be(
    batch: list[tuple[list[float], Draw]],
) -> None:
    eos, never = 7, 9
    values = torch.tensor([[0.0, *logits] for logits, _ in batch])  # token 0 is always possible
    expected = []
    for row, (_, draw) in zip(values, batch, strict=True):
        possible = row.clone()
        possible[[never, eos] if draw.sampling.ignore_eos else [never]] = float("-inf")
        greedy = draw.sampling.temperature == 0
        expected.append(int(possible.argmax()) if greedy else draw_one(possible, draw))
    sampler = Sampler(eos_ids=(eos,), never=(never,), device=CPU)
    assert sampler.sample(values, [draw for _, draw in batch]) == expected


def test_equal_logits_are_candidates_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0])
    sampling = Sampling(max_new_tokens=1, temperature=1.0, top_k=4)
    assert distribution(logits, sampling)[1].tolist() == [1, 3, 4, 0]
