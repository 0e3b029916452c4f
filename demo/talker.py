"""Any checkpoint, loaded as anybody would load it, answering conversations greedily."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

Message = dict[str, Any]


class Answers(Protocol):
    """Whatever answers conversations: a checkpoint here, or a running service."""

    def answer(self, chats: list[list[Message]], images: list[list[Image.Image]]) -> list[str]:
        """One answer for each conversation; `images` are its pictures, in order."""
        ...


class Talker:
    """The checkpoint and its processor, answering many conversations at once."""

    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    @torch.inference_mode()
    def answer(self, chats: list[list[Message]], images: list[list[Image.Image]]) -> list[str]:
        """One greedy answer for each conversation; `images` are its pictures, in order."""
        texts = self.processor.apply_chat_template(chats, add_generation_prompt=True)
        flat = [image for shown in images for image in shown]
        inputs = self.processor(images=flat or None, text=texts, padding=True, return_tensors="pt")
        tokens = self.model.generate(**inputs, do_sample=False)
        answers: list[str] = self.processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return answers
