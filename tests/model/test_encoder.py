"""The vision tower beside the steps: in order, once, nicely, and never in silence when it fails."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.model.dialogue import Dialogue, answer_all
from tests.model.exactness import answer_and_compare, make_engine
from tests.model.reference import Reference
from tests.model.tiny import noise_image
from vlm_sessions.engine.engine import Engine
from vlm_sessions.engine.types import PixelImage, PixelsNeeded, Plan, Prefilled, Sampling, Turn
from vlm_sessions.model.checkpoint import open_checkpoint
from vlm_sessions.model.encoder import NICENESS, EncodedImage, Encoder, choose_num_threads
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.tower import VisionTower

CPU = torch.device("cpu")
PATIENCE_SECONDS = 60.0


def image(name: str) -> PixelImage:
    return PixelImage(name, (1,), b"")


class Tower:
    """Stands for the vision tower; may be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.seen: dict[str, int] = {}
        """What was true of the thread that computed."""
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def compute(self, images: Sequence[PixelImage]) -> list[torch.Tensor]:
        self.batches.append([each.digest for each in images])
        assert self.gate.wait(PATIENCE_SECONDS)
        self.seen = {
            "thread": threading.get_ident(),
            "niceness": os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
            "torch_threads": torch.get_num_threads(),
            "inference": int(torch.is_inference_mode_enabled()),
        }
        if self.error is not None:
            raise self.error
        return [torch.full((len(each.digest), 2), 1.0) for each in images]


def make_encoder(tower: Tower, *, max_batch: int = 1, num_threads: int = 1) -> Encoder:
    return Encoder(tower.compute, device=CPU, max_batch=max_batch, num_threads=num_threads)


def collect(encoder: Encoder, count: int) -> list[EncodedImage]:
    """The next so many images."""
    done: list[EncodedImage] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(done) < count:
        assert time.monotonic() < deadline
        done += encoder.collect(wait=True)
    return done


def test_images_come_out_in_the_order_in_which_they_were_begun() -> None:
    tower = Tower()
    encoder = make_encoder(tower)
    encoder.start([image("a"), image("bb")])
    encoder.start([])
    encoder.start([image("ccc")])
    done = collect(encoder, 3)
    assert [each.digest for each in done] == ["a", "bb", "ccc"]
    assert [each.features.shape[0] for each in done] == [1, 2, 3]
    assert encoder.collect(wait=False) == []


def test_images_that_wait_are_computed_together_up_to_a_limit() -> None:
    tower = Tower()
    tower.gate.clear()
    encoder = make_encoder(tower, max_batch=3)
    encoder.start([image("first")])
    while not tower.batches:
        time.sleep(0.001)
    encoder.start([image(name) for name in "abcd"])
    assert encoder.collect(wait=False) == [], "who collects is not held up"
    tower.gate.set()
    done = collect(encoder, 5)
    assert tower.batches == [["first"], ["a", "b", "c"], ["d"]]
    assert all(each.seconds >= 0 for each in done)


def test_an_encoder_that_had_nothing_to_do_begins_again() -> None:
    tower = Tower()
    encoder = make_encoder(tower)
    for name in ("a", "b", "c"):
        encoder.start([image(name)])
        assert [each.digest for each in collect(encoder, 1)] == [name]


def test_what_goes_wrong_is_raised_where_it_is_collected() -> None:
    tower = Tower()
    tower.error = RuntimeError("out of memory")
    encoder = make_encoder(tower)
    encoder.start([image("a")])
    with pytest.raises(RuntimeError, match="out of memory"):
        collect(encoder, 1)


def test_waiting_for_an_image_ends_soon_so_that_commands_are_heard() -> None:
    tower = Tower()
    tower.gate.clear()
    encoder = make_encoder(tower)
    encoder.start([image("a")])
    assert encoder.collect(wait=True) == []
    tower.gate.set()
    collect(encoder, 1)


def test_the_encoder_has_threads_of_its_own_and_leaves_the_engines_alone() -> None:
    before = torch.get_num_threads()
    tower = Tower()
    encoder = make_encoder(tower, num_threads=3)
    encoder.start([image("a")])
    collect(encoder, 1)
    assert tower.seen["thread"] != threading.get_ident()
    assert tower.seen["torch_threads"] == 3
    assert tower.seen["inference"]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux only")
def test_the_encoder_is_nicer_than_the_engine() -> None:
    tower = Tower()
    encoder = make_encoder(tower)
    encoder.start([image("a")])
    collect(encoder, 1)
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert tower.seen["niceness"] == min(mine + NICENESS, 19)


def test_the_encoder_takes_no_core_that_the_engine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [choose_num_threads(n) for n in (1, 2, 4, 6, 8)] == [1, 2, 4, 2, 1]


class Many:
    """Turns on one picture, handed to a real engine at the same moment."""

    def __init__(self, path: Path, count: int, *, sampling: Sampling) -> None:
        self.engine: Engine = make_engine(path, max_batch_tokens=256)
        dialogue = Dialogue("one")
        dialogue.ask(make_processor(path), "What is this, and what is behind it?", [noise_image(3)])
        self.tokens = tuple(dialogue.tokens)
        self.pixels = dialogue.pixels[0]
        self.prefilled: list[Prefilled] = []
        self.num_asked = 0
        events = []
        for number in range(count):
            turn = Turn(f"t{number}", self.tokens, tuple(dialogue.images), sampling)
            events += self.engine.add(turn)
        while events or self.engine.has_work:
            for event in events:
                if isinstance(event, PixelsNeeded):
                    self.num_asked += 1
                    self.engine.put_pixels(self.pixels)
                elif isinstance(event, Prefilled):
                    self.prefilled.append(event)
            events = self.engine.step()
        self.engine.check_integrity()


def test_fifty_opens_of_one_picture_cost_one_encode_and_one_prefix(tiny_path: Path) -> None:
    many = Many(tiny_path, 50, sampling=Sampling(max_new_tokens=0))
    assert len(many.prefilled) == 50
    assert many.engine.stats().images_encoded_total == 1
    assert many.num_asked == 1
    num_computed = sum(p.prompt_tokens - p.cached_tokens for p in many.prefilled)
    assert num_computed == len(many.tokens)


def test_answers_given_while_pictures_are_encoded_are_those_of_generate(tiny_path: Path) -> None:
    processor, engine = make_processor(tiny_path), make_engine(tiny_path, max_batch_tokens=16)
    plans: list[Plan] = []
    execute = engine.runner.execute

    def watched(plan: Plan):  # type: ignore[no-untyped-def]
        plans.append(plan)
        return execute(plan)

    engine.runner.execute = watched  # type: ignore[method-assign]
    dialogues = [Dialogue(f"s{number}") for number in range(6)]
    for number, dialogue in enumerate(dialogues):
        pictures = [noise_image(number)] if number % 2 else []
        dialogue.ask(processor, f"What is number {number}?", pictures)
    answer_and_compare(engine, dialogues, Reference(tiny_path))
    assert any(plan.encode and plan.spans for plan in plans), "words are computed beside pictures"
    for dialogue in dialogues:
        dialogue.ask(processor, "And this?", [noise_image(40)])
    answer_and_compare(engine, dialogues, Reference(tiny_path))


def test_a_tower_that_fails_fails_the_step(tiny_path: Path) -> None:
    processor, engine = make_processor(tiny_path), make_engine(tiny_path)
    dialogue = Dialogue("one")
    dialogue.ask(processor, "What is this?", [noise_image(1)])
    dialogue.pixels[0] = PixelImage(dialogue.pixels[0].digest, (3, 2, 2), bytes(48))
    with pytest.raises(Exception, match=r"."):
        answer_all(engine, [dialogue], Sampling(max_new_tokens=2))


def test_layers_behind_the_one_that_features_are_read_from_are_dropped(tiny_path: Path) -> None:
    loaded = Reference(tiny_path)
    num_layers = loaded.model.config.vision_config.num_hidden_layers
    num_unused = -1 - loaded.model.config.vision_feature_layer
    VisionTower(
        loaded.model,
        open_checkpoint(tiny_path),
        device=CPU,
        dtype=torch.float32,
    )
    kept = {
        name.split(".layers.")[1].split(".")[0]
        for name, _ in loaded.model.model.vision_tower.named_parameters()
        if ".layers." in name
    }
    assert kept == {str(number) for number in range(num_layers - num_unused)}
