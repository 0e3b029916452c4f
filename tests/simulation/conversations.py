"""Conversations for an engine alone that collide: few words, few images, many begin alike."""

from __future__ import annotations

from random import Random

from vlm_sessions.engine.types import ImageSpan, Sampling, Turn

IMAGE_TOKEN = 1
END_TOKEN = 6
NUM_REMEMBERED = 12

Beginning = tuple[tuple[int, ...], tuple[ImageSpan, ...]]
"""Tokens, and the images in them."""


class Conversations:
    """Draws turns, many of which begin as others did."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._past: list[tuple[Turn, list[int]]] = []
        """Turns that were answered, and their answers."""

    def remember(self, turn: Turn, answer: list[int]) -> None:
        """Of an answered turn: others may go on from it."""
        self._past.append((turn, answer))
        del self._past[:-NUM_REMEMBERED]

    def forget(self) -> None:
        """They have grown too long."""
        self._past.clear()

    def beginning(self) -> Beginning:
        """Of a conversation: one that goes on, one that goes back, or a new one."""
        kind = self._random.random()
        if not self._past or kind < 0.3:
            return (), ()
        previous, answer = self._random.choice(self._past)
        whole = (*previous.tokens, *answer)
        if kind < 0.75:
            return whole, previous.images
        # As a rewound session has, or one of two that were forked.
        images = previous.images[: self._random.randint(0, len(previous.images))]
        first = images[-1].start + images[-1].length if images else 0
        all_images = len(images) == len(previous.images)
        last = len(whole) if all_images else previous.images[len(images)].start
        return whole[: self._random.randint(first, last)], images

    def continued(self, beginning: Beginning) -> Beginning:
        """With words and images of its own at its end."""
        random, (tokens, images) = self._random, beginning
        for _ in range(random.randrange(4)):
            if random.random() < 0.5:
                length = random.randint(1, 9)
                # An image's number of tokens belongs to its content, as it does in the product.
                digest = f"{random.choice(['cat', 'dog', 'cow'])}-{length}"
                images = (*images, ImageSpan(digest, len(tokens), length))
                tokens += (IMAGE_TOKEN,) * length
            else:
                tokens += tuple(random.randint(3, 5) for _ in range(random.randrange(10)))
        return (*tokens, END_TOKEN), images

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self._random.choice([0, 1, 3, 9, 30]),
            temperature=self._random.choice([0.0, 1.0]),
            seed=self._random.randrange(4),
            ignore_eos=self._random.random() < 0.5,
        )
