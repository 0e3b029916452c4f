"""Inputs at random: each from its seed and its number alone, so that any one can be made again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

ODD_TEXTS = (
    *(
        "",
        " ",
        "x",
        "\0",
        "\n",
        "\r",
        "\r\n\r\n",
        "\t",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\u202e",
    ),
    *(
        "\ud800",
        "\udfff",
        "é",
        "e\u0301",
        "中",
        "🙂",
        "٣",
        "<image>",
        "</s>",
        "[DONE]",
        "data: ",
        "::",
    ),
    *("http://127.0.0.1/", "http://[::1]/", "file:///etc/passwd", "s3://a/b", "//x", "data:,"),
    *("data:image/png;base64,aGk=", "http://x:99999/", "http://0x7f.1/", "javascript:1", "aGk="),
    *(
        "../",
        "%0d%0a",
        "'",
        '"',
        "\\",
        "{}",
        "null",
        "NEW_SESSION",
        "; Expires=",
        "Set-Cookie: a=b",
    ),
)
ODD_NUMBERS = (
    *(0, 1, -1, 2, 8, 0.5, 1.0, -0.0, 1e308, 5e-324, 10**30, -(10**400)),
    *(2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64),
)


class Dice(random.Random):
    """A generator of values as well as of numbers."""

    def one_in(self, number: int) -> bool:
        return self.randrange(number) == 0

    def text(self, longest: int = 12) -> str:
        """Letters, signs, any character of Unicode, halves of surrogate pairs, what bites."""
        kind = self.randrange(4)
        if kind == 0:
            return self.choice(ODD_TEXTS)
        length = self.randrange(longest + 1)
        if kind == 1:
            return "".join(self.choices("abcdefXYZ0189-_.;, ", k=length))
        if kind == 2:
            return "".join(chr(self.randrange(0x110000)) for _ in range(length))
        return "".join(self.choice(ODD_TEXTS) for _ in range(min(length, 3)))

    def number(self) -> float:
        if self.one_in(2):
            return self.choice(ODD_NUMBERS)
        return self.randrange(-10, 100) if self.one_in(2) else self.uniform(-2, 2)

    def value(self, depth: int = 3) -> Any:
        """Anything that JSON can hold."""
        kind = self.randrange(7 if depth else 4)
        if kind < 4:
            made = (None, self.one_in(2), self.number(), self.text())
            return made[kind]
        size = self.randrange(4)
        if kind == 4:
            return [self.value(depth - 1) for _ in range(size)]
        return {self.text(): self.value(depth - 1) for _ in range(size)}

    def pieces(self, parts: Sequence[str], most: int) -> str:
        """Some of ``parts`` and some text, joined."""
        count = self.randrange(most + 1)
        return "".join(self.choice(parts) if self.one_in(2) else self.text(8) for _ in range(count))


def at_random(make: Callable[[Dice], T]) -> Callable[[int, range, Callable[[T], None]], None]:
    """How a target is fed: with what ``make`` makes of a seed and each number of a range."""

    def feed(seed: int, numbers: range, check: Callable[[T], None]) -> None:
        dice = Dice()
        for number in numbers:
            dice.seed(f"{seed}/{number}")
            check(make(dice))

    return feed
