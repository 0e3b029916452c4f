"""The README's three figures, from the newest run through the whole service."""

from __future__ import annotations

from bench.publish.kept import Kept
from bench.publish.markdown import number, paragraph, spread, table

BEGIN, END = "<!-- figures, by `make bench-report` -->", "<!-- end of figures -->"


def with_figures(readme: str, kept: Kept) -> str:
    """The page with what is between the marks written anew.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{figures(kept)}\n{END}{after}"


def figures(kept: Kept) -> str:
    """The best of the largest model that was measured, and its conditions."""
    model = max(kept.data["figures"], key=lambda each: each["num_image_tokens"])
    machine = kept.data["machine"]
    rows = [
        (
            "a follow-up's first token comes so many times sooner than with the picture sent again",
            spread(model["ttft_ratio"]),
        ),
        ("a follow-up's first token, median, ms", number(model["follow_up_ttft"]["p50"])),
        (
            f"tokens/s, {model['num_clients']} sessions ÷ as many clients that send the picture "
            "every time",
            spread(model["rate_ratio"]),
        ),
    ]
    conditions = paragraph(
        f"""{model["num_image_tokens"]} image tokens, {model["model"]} parameters of random weights,
        {model["dtype"]}, {machine["num_cores"]} cores of an {machine["processor"]},
        {kept.data["threads"]} engine thread(s), through the whole service; medians of
        {model["num_rounds"]} rounds (smallest–largest),
        [the run](bench/results/{kept.path.name})."""
    )
    return f"\n{table(('', ''), rows)}\n\n{conditions}\n"
