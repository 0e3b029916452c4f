"""The engine with many sessions, at once or in little memory: runs of concurrency and sessions."""

from __future__ import annotations

from bench.publish.kept import Kept
from bench.publish.markdown import number, paragraph, plot, section, spread, table


def concurrency(kept: Kept) -> str:
    """Tokens a second by the number of sessions."""
    data = kept.data
    rates: dict[int, dict[str, str]] = {}
    for each in data["throughputs"]:
        rates.setdefault(each["num_sessions"], {})[each["pictures"]] = spread(each["rate"])
    kinds = list(dict.fromkeys(each["pictures"] for each in data["throughputs"]))
    return section(
        "Tokens a second, by sessions answered at once",
        paragraph(
            f"""`python -m bench.concurrency`: the engine alone, {data["shape"]}, {data["dtype"]},
            {data["threads"]} thread(s); a round is a follow-up of each session at the same moment,
            prompt and tokens together; medians of {data["num_rounds"]} rounds
            (smallest–largest)."""
        ),
        paragraph(kept.conditions),
        plot("concurrency", "Tokens a second over the number of sessions"),
        table(
            ("at once", *kinds),
            ((str(size), *(found[kind] for kind in kinds)) for size, found in rates.items()),
        ),
    )


def sessions(kept: Kept) -> str:
    """How many sessions a budget holds, and what they answer next."""
    data = kept.data
    budgets, last = data["budgets"], data["looks"][-1]
    rows = [
        (
            each["level"],
            f"{each['num_sessions']:,}",
            f"{each['num_as_noted']:,}",
            number(each["ttft"]["p50"]),
            number(each["ttft"]["p99"]),
        )
        for each in data["asked"]
    ]
    return section(
        "Many sessions in little memory",
        paragraph(
            f"""`python -m bench.sessions`: the engine alone, {data["shape"]}, {data["dtype"]},
            {data["threads"]} thread(s). {last["num_sessions"]:,} sessions, each with a picture of
            its own, in caches of {sum(budgets.values()):,} MiB in all (KV {budgets["kv"]}, features
            {budgets["features"]}, pixels {budgets["pixels"]}). What each would answer next was
            noted while it was on the device; here it is asked, in random order, wherever it is by
            then. The engine's process took {number(data["looks"][0]["own"])} MiB before the first
            and {number(last["own"])} with the last."""
        ),
        paragraph(kept.conditions),
        plot("sessions", "Memory over the number of sessions"),
        table(("found", "sessions", "answers as noted", "TTFT p50, ms", "p99, ms"), rows),
    )
