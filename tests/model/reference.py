"""What the product must equal: transformers' own model, given the whole conversation each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from vlm_sessions.engine.types import PixelImage


class Reference:
    """A checkpoint under ``generate``: no paging, no batching, nothing kept between calls."""

    def __init__(
        self, path: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
        self.model.to(device).eval()
        self._device = device

    def logits(self, tokens: Sequence[int], pixels: Sequence[PixelImage]) -> torch.Tensor:
        """Logits after every token of a conversation: ``[num_tokens, vocab_size]``."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**self._inputs(tokens, pixels)).logits[0]
        return logits

    def answer(
        self, tokens: Sequence[int], pixels: Sequence[PixelImage], *, max_new_tokens: int
    ) -> list[int]:
        """The greedy answer to a whole conversation, end-of-sequence token left out.

        The image token is suppressed, as no conversation could hold it as an answer.
        """
        config = self.model.config
        output = self.model.generate(
            **self._inputs(tokens, pixels),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            suppress_tokens=[config.image_token_id],
        )
        answer: list[int] = output[0, len(tokens) :].tolist()
        eos = self.model.generation_config.eos_token_id
        return answer[:-1] if answer and answer[-1] == eos else answer

    def _inputs(self, tokens: Sequence[int], pixels: Sequence[PixelImage]) -> dict[str, Any]:
        ids = torch.tensor([list(tokens)], device=self._device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pixels:
            arrays = [np.frombuffer(p.data, "<f4").reshape(p.shape) for p in pixels]
            if pixels[0].size is not None:
                # As the image processors hand over tiles: padded to the image that has most.
                most = max(map(len, arrays))
                arrays = [np.pad(a, ((0, most - len(a)), *3 * ((0, 0),))) for a in arrays]
                inputs["image_sizes"] = torch.tensor([p.size for p in pixels])
                if most == 1:
                    # So transformers is told that these are shown as a whole.
                    inputs["batch_num_images"] = torch.tensor([len(pixels)])
            stacked = torch.from_numpy(np.stack(arrays))
            inputs["pixel_values"] = stacked.to(self._device, self.model.dtype)
        return inputs
