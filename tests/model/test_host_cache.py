"""KV that leaves the device for the host and comes back: the same bits, and the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.dialogue import Dialogue
from tests.model.exactness import QUESTIONS, answer_and_compare
from tests.model.reference import Reference
from tests.model.tiny import KINDS, noise_image
from vlm_sessions.config import Settings
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.eviction import Eviction
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.types import BlockLoad, BlockStore
from vlm_sessions.model.host_cache import HostKV, host_budget
from vlm_sessions.model.kv_cache import KVCache, KVShape, Layout
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import make_runner

CPU = torch.device("cpu")


def filled_cache(layout: Layout, num_blocks: int = 6) -> KVCache:
    shape = KVShape(num_layers=3, num_kv_heads=2, head_dim=8, dtype=torch.float32)
    cache = KVCache(shape, num_blocks=num_blocks, block_size=4, device=CPU, layout=layout)
    cache.bits.copy_(torch.randn(cache.bits.shape, generator=torch.Generator().manual_seed(1)))
    return cache


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("gathers", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_a_block_comes_back_from_the_host_bit_for_bit(layout: Layout, gathers: bool) -> None:
    cache = filled_cache(layout)
    before = cache.bits.clone()
    host = HostKV(cache, num_slots=3, gathers=gathers)
    host.store([BlockStore(block=4, slot=2), BlockStore(block=1, slot=0)])
    cache.bits.fill_(7.0)
    host.load([BlockLoad(slot=0, block=5, num_tokens=4), BlockLoad(slot=2, block=0, num_tokens=4)])
    host.join()
    assert torch.equal(cache.bits[:, :, :, 5], before[:, :, :, 1])
    assert torch.equal(cache.bits[:, :, :, 0], before[:, :, :, 4])
    assert bool((cache.bits[:, :, :, 1:5] == 7.0).all()), "no other block was touched"
    num_loaded, seconds = host.take_loaded()
    assert num_loaded == 2
    assert seconds > 0
    assert host.take_loaded() == (0, 0.0)


@pytest.mark.parametrize("gathers", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_what_is_loaded_in_part_leaves_no_values_of_others_behind_it(gathers: bool) -> None:
    cache = filled_cache(Layout.TOKENS_FIRST)
    before = cache.bits.clone()
    host = HostKV(cache, num_slots=1, gathers=gathers)
    host.store([BlockStore(block=4, slot=0)])
    cache.bits.fill_(float("nan"))
    host.load([BlockLoad(slot=0, block=2, num_tokens=3)])
    host.join()
    assert torch.equal(cache.bits[:, :, :, 2, :3], before[:, :, :, 4, :3])
    assert bool((cache.values[:, :, 2, 3:] == 0).all())


def test_the_host_is_used_by_itself_only_where_it_has_memory_of_its_own() -> None:
    class Memory:
        def capacity(self) -> int:
            return 1000 << 20

        def free(self) -> int:
            return 800 << 20

        def peak_of(self, work: object) -> int | None:
            return None

    cuda = torch.device("cuda")
    assert host_budget("auto", CPU, share=0.25, most=1 << 40, memory=Memory()) == 0
    assert host_budget("auto", cuda, share=0.25, most=1 << 40, memory=Memory()) == 200 << 20
    assert host_budget("auto", cuda, share=0.25, most=5 << 20, memory=Memory()) == 5 << 20
    assert host_budget(3, CPU, share=0.25, most=1, memory=Memory()) == 3 << 20


@pytest.mark.parametrize("eviction", Eviction)
def test_sessions_whose_kv_goes_to_the_host_and_back_answer_as_generate_does(
    tiny_paths: dict[str, Path], eviction: Eviction
) -> None:
    tiny_path = tiny_paths[KINDS[0].name]
    settings = Settings(
        device="cpu",
        dtype="float32",
        threads=1,
        kv_cache_mb=1,
        host_kv_mb=64,
        host_feature_mb=64,
        block_size=8,
    )
    limits = EngineLimits(
        max_batch_tokens=64, max_loads_per_step=3, eviction=eviction, feature_bytes=1
    )
    engine = Engine(make_runner(settings, tiny_path), limits)
    room = engine.info.num_blocks * engine.info.block_size
    processor, reference = make_processor(tiny_path), Reference(tiny_path)
    dialogues: list[Dialogue] = []
    while sum(len(dialogue.tokens) for dialogue in dialogues) < 2 * room:
        dialogues.append(Dialogue(f"s{len(dialogues)}"))
        pictures = [noise_image(len(dialogues))]
        dialogues[-1].ask(processor, "What is this? " * 20, pictures)
    answer_and_compare(engine, dialogues, reference)
    for number in range(2):
        earlier = {dialogue.key: len(dialogue.tokens) for dialogue in dialogues}
        for dialogue in dialogues:
            dialogue.ask(processor, QUESTIONS[number])
        outcomes = answer_and_compare(engine, dialogues, reference)
        if eviction is Eviction.LRU:  # the other one may find computing as cheap as copying
            assert all(outcomes[key].cached_tokens >= earlier[key] - 1 for key in outcomes)
    stats = engine.stats()
    assert stats.blocks_evicted_total > 0
    if eviction is Eviction.LRU:
        assert stats.host_blocks_loaded_total > 0
        assert stats.images_encoded_total == len(dialogues), "no picture was encoded twice"
    engine.clear()
    for dialogue in dialogues:
        dialogue.ask(processor, QUESTIONS[2])
    answer_and_compare(engine, dialogues[:2], reference)
