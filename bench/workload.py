"""Pictures and questions from a seed, all different: no cache is measured by accident."""

from __future__ import annotations

import io
from dataclasses import dataclass
from random import Random

from PIL import Image

from demo.tokenizer import WORDS

PICTURE_SIDE = 448  # pixels
JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Lengths:
    """How much is asked and answered. Counts of words are counts of tokens here."""

    num_turns: int
    num_question_words: int
    num_answer_tokens: int


class Workload:
    """What clients send. The same seed gives the same pictures and questions."""

    def __init__(self, seed: int) -> None:
        # As text: of a number, Random takes the size only, and n would be what -n is.
        self._random = Random(f"workload {seed}")
        self._words = [word for word in WORDS if word.isalpha()]

    def picture(self) -> bytes:
        """A JPEG that was never seen before."""
        noise = Image.frombytes("RGB", (16, 16), self._random.randbytes(16 * 16 * 3))
        picture = noise.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=JPEG_QUALITY)
        return encoded.getvalue()

    def fork(self) -> int:
        """A seed for another workload, unlike this one."""
        return self._random.getrandbits(32)

    def question(self, num_words: int) -> str:
        return " ".join(self._random.choices(self._words, k=num_words))
