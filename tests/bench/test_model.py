from __future__ import annotations

from pathlib import Path

from bench.model import build_checkpoint
from bench.shapes import SHAPES
from bench.workload import Workload
from vlm_sessions.model.processor import make_processor


def test_a_checkpoint_of_random_weights_can_be_served_and_every_token_is_a_word(
    tmp_path: Path,
) -> None:
    shape = SHAPES["tiny"]
    build_checkpoint(shape, tmp_path)
    processor = make_processor(tmp_path)
    assert processor.num_image_tokens(448, 448) == shape.num_image_tokens
    assert processor.decode([7, 500, shape.vocab_size - 1]).count(" ") == 2
    question = Workload(0).question(24)
    turn = processor.encode_turn(first=False, system=None, text=question, images=[])
    plain = processor.encode_turn(first=False, system=None, text="red", images=[])
    assert len(turn.tokens) - len(plain.tokens) == 23
