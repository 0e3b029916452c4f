"""A session that outgrew its context answers as ``generate`` does to the shortened conversation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.model.reference import Reference
from tests.model.test_service_equals_generate import invoke, running
from tests.model.test_tiles_turns import inline
from tests.model.tiny import PLAIN, noise_image, save_tiny
from vlm_sessions.model.processor import make_processor
from vlm_sessions.processing import ImageRef

CONTEXT = 256
NUM_TURNS = 9
MAX_NEW_TOKENS = 12
RESTARTED = 6
"""Before this turn the service starts anew."""


async def test_answers_to_a_shortened_conversation_are_those_of_generate(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", PLAIN)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = CONTEXT
    (model / "config.json").write_text(json.dumps(config))
    processor, reference, picture = make_processor(model), Reference(model), noise_image(0)
    image = ImageRef("any", processor.num_image_tokens(*picture.size))
    pixels = [processor.pixels(picture, "any")]
    turns: list[tuple[int, ...]] = []
    dropped: list[int] = []
    async with running(model, tmp_path / "state", context_overflow="drop_oldest") as start:
        app = await start()
        opened = await invoke(app, {"type": "open_session", "images": [inline(picture)]})
        for number in range(NUM_TURNS):
            if number == RESTARTED:
                app = await start()
            text = f"What is number {number} of them, and is it red?"
            segment = processor.encode_turn(
                first=not number, system=None, text=text, images=() if number else (image,)
            )
            command = {"type": "prompt", "prompt": text, "max_new_tokens": MAX_NEW_TOKENS}
            answer = await invoke(app, command, opened["session_id"])
            dropped.append(answer["usage"]["dropped_turns"])
            given = [*turns[:1], *turns[1 + dropped[-1] :], segment.tokens]
            tokens = [token for turn in given for token in turn]
            expected = await asyncio.to_thread(
                reference.answer, tokens, pixels, max_new_tokens=MAX_NEW_TOKENS
            )
            assert answer["text"] == processor.decode(expected), f"turn {number}"
            assert answer["usage"]["prompt_tokens"] == len(tokens)
            turns.append((*segment.tokens, *expected))
    assert dropped[:2] == [0, 0]
    assert dropped == sorted(dropped)
    assert len(set(dropped)) < NUM_TURNS - 2, "not at every turn"
    assert dropped[-1] > 2
