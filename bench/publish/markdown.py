"""Tables and numbers as the pages write them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

WIDTH = 100


def paragraph(text: str) -> str:
    """Text as it comes, in lines of at most ``WIDTH`` characters; links stay whole."""
    return textwrap.fill(
        " ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it."""
    return "\n\n".join([f"## {title}", *parts]) + "\n"


def plot(name: str, text: str) -> str:
    """A picture that ``plots.py`` draws; ``text`` is for who cannot see it."""
    return f"![{text}](plots/{name}.svg)"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers, which are all columns but the first, to the right."""
    lines = [
        f"| {' | '.join(headings)} |",
        f"| --- |{' ---: |' * (len(headings) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three figures that count: 2068 → 2,068; 97.4 → 97.4; 1.0661 → 1.07; 0.149 → 0.149."""
    if value == 0:
        return "0"
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{places}f}"


def spread(values: Mapping[str, float]) -> str:
    """A median of rounds, with the smallest and largest of them."""
    return f"{number(values['median'])} ({number(values['smallest'])}–{number(values['largest'])})"
