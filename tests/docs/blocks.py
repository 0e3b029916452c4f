"""The code blocks of a page, in order, with what they are said to print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    r"(?:\n\n^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """In ``output``, ``…`` stands for what differs from run to run; ``None``: nothing is said."""

    line: int
    language: str
    code: str
    output: str | None

    def prints(self, stdout: str) -> bool:
        """Whether ``stdout`` is what the page says."""
        if self.output is None:
            return True
        parts = (re.escape(part) for part in self.output.strip().split("…"))
        return re.fullmatch(".*?".join(parts), stdout.strip(), re.DOTALL) is not None


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            line=text.count("\n", 0, match.start("code")),
            language=match["language"],
            code=match["code"],
            output=match["output"],
        )
        for match in _BLOCK.finditer(text)
    ]
