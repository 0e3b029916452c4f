"""What the engine does with its caches and its steps: runs of levels, peers, decode, bookkeeping,
kernels, fairness and eviction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.publish.kept import Kept
from bench.publish.markdown import number, paragraph, plot, section, spread, table

_WHY_AHEAD = "decisions/0025-peers.md#where-a-peer-is-ahead"


def levels(kept: Kept) -> str:
    """A follow-up's first token, by where its conversation is found."""
    data = kept.data
    rows = [(each["name"], spread(each["ttft"]), spread(each["ratio"])) for each in data["levels"]]
    return section(
        "A first token, by the level of the cache that it finds",
        paragraph(
            f"""`python -m bench.levels`: the engine alone, {data["shape"]}, {data["dtype"]},
            {data["threads"]} thread(s). An engine for each level, whose budgets leave a
            conversation just there; medians of {data["num_rounds"]} rounds (smallest–largest)."""
        ),
        paragraph(kept.conditions),
        plot("levels", "Time to the first token by the level of the cache"),
        table(("found", "TTFT, ms", "÷ KV on the device"), rows),
    )


def peers(kept: Kept) -> str:
    """The same conversations through others."""
    parts = [
        paragraph(
            """`make bench-peers`: the same conversations through each, in turn, on one core, one
            thread each; processor time of the process, medians of the rounds (smallest–largest).
            Peers are pinned to the versions in `requirements`."""
        ),
        paragraph(kept.conditions),
    ]
    for comparison in kept.data["comparisons"]:
        rows = [
            (
                peer["name"],
                *(
                    spread(peer[figure]["cpu"]) if peer[figure] else "–"
                    for figure in ("first_ttft", "follow_up_ttft", "tpot", "rate")
                ),
            )
            for peer in comparison["peers"]
        ]
        ratios = [
            (each["name"], spread(each["spreads"]["cpu"]), each["goal"], _met(each["met"]))
            for each in comparison["ratios"]
        ]
        parts += [
            f"### {comparison['shape']}, {comparison['dtype']}",
            table(("", "first TTFT, ms", "follow-up TTFT, ms", "TPOT, ms", "tokens/s, 8"), rows),
            table(("ratio", "median", "goal", ""), ratios),
        ]
        if ahead := _ahead(comparison["ratios"]):
            parts.append(paragraph(f"""Ahead of us: {"; ".join(ahead)}. [Why]({_WHY_AHEAD})."""))
        parts += [
            paragraph(f"{peer['name']}: {peer['note']}.")
            for peer in comparison["peers"]
            if peer["note"]
        ]
        parts += [
            paragraph(f"Not measured: {absent['name']}: {absent['reason']}")
            for absent in comparison["absent"]
        ]
    return section("Beside others", *parts)


def _ahead(ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    """In what a peer is better than we are, by the medians: more tokens a second, or less time."""
    found = []
    for each in ratios:
        median = each["spreads"]["cpu"]["median"]
        more_is_better = each["name"].endswith(("at once", "decoding"))
        if each["name"].startswith("ours / ") and (median < 1 if more_is_better else median > 1):
            found.append(f"{each['name'].removeprefix('ours / ')} ({number(median)})")
    return found


def decode(kept: Kept) -> str:
    """A step's cost beside a bare loop, and beside the reference kernels."""
    data = kept.data
    rows = [
        (
            f"{each['work']}, {each['dtype']}",
            number(each["step_ms"]["median"]),
            f"{100 * each['overhead']['median']:.1f} %",
            f"{number(each['speedup']['median'])} ×",
        )
        for each in data["results"]
    ]
    return section(
        "A step of the engine",
        paragraph(
            f"""`python -m bench.decode`: {data["shape"]}, {data["num_context"]} tokens of context,
            one thread, processor time, medians of {data["num_rounds"]} rounds; load
            {data["load"]:g}. Beside it, in turn, the same step as a bare torch loop, and with the
            plain reference kernels."""
        ),
        paragraph(kept.conditions),
        table(("", "step, ms", "above the bare loop", "faster than reference kernels"), rows),
    )


def bookkeeping(kept: Kept) -> str:
    """What a step takes beside the device's work."""
    data = kept.data
    kinds = {"all decode": data["decoding"], "turns come or go": data["changing"]}
    rows = [
        (name, f"{each['num_samples']:,}", *(number(each[key]) for key in ("p50", "p95", "p99")))
        for name, each in kinds.items()
    ]
    return section(
        "The engine's bookkeeping",
        paragraph(
            f"""`python -m bench.bookkeeping`: {data["num_sessions"]:,} sessions whose conversations
            are cached, {data["num_running"]} of them answered at a time, over a modelled device
            whose time is left out: scheduler, caches and events, in processor time."""
        ),
        paragraph(kept.conditions),
        table(("steps", "how many", "p50, ms", "p95, ms", "p99, ms"), rows),
    )


def kernels(kept: Kept) -> str:
    """The kernels in C beside torch's."""
    data = kept.data
    rows = [
        (
            f"{each['work']}, {each['dtype']}",
            str(each["num_rows"]),
            number(each["native_ms"]),
            number(each["torch_ms"]),
            number(each["read_ms"]),
            number(each["speedup"]),
        )
        for each in data["results"]
    ]
    return section(
        "Kernels for CPUs",
        paragraph(
            f"""`python -m bench.kernels`: ours for {data["library"]} beside torch's, in turn, one
            thread, processor time, medians of {data["num_rounds"]} rounds; weights and contexts
            come from memory, and how long torch takes to sum them stands beside."""
        ),
        paragraph(kept.conditions),
        table(("", "rows", "ours, ms", "torch, ms", "summing, ms", "torch ÷ ours"), rows),
    )


def fairness(kept: Kept) -> str:
    """What running streams notice of somebody who opens a picture."""
    data = kept.data
    rows = [
        (
            f"{each['num_streams']}, {'paced' if each['prefill_share'] else 'no limit'}",
            number(each["ratio"]["p50"]),
            number(each["ratio_p99"]),
            number(each["longest_gap"]),
            number(each["ttft_alone"]),
            number(each["ttft"]["p50"]),
        )
        for each in data["cases"]
    ]
    return section(
        "Running answers while somebody opens a picture",
        paragraph(
            f"""`python -m bench.fairness`: {data["shape"]}, {data["num_cores"]} core(s), processor
            time of engine and encoder; load {data["load"]:g}."""
        ),
        paragraph(kept.conditions),
        table(
            (
                "streams",
                "ITL p50, during ÷ before",
                "… p99",
                "longest gap, ms",
                "opener's TTFT alone, ms",
                "… beside the streams",
            ),
            rows,
        ),
    )


def eviction(kept: Kept) -> str:
    """What the order of eviction gains, on a modelled device."""
    data = kept.data
    rows = []
    for sweep in data["sweeps"]:
        lru, cost = sweep["outcomes"]
        rows.append(
            (
                f"{sweep['num_open']} / {sweep['host_sessions']}",
                f"{lru['computed_tokens']:,} → {cost['computed_tokens']:,}",
                _change(lru, cost, "ttft_mean"),
                _change(lru, cost, "ttft_p99"),
            )
        )
    return section(
        "What is evicted first: by cost, beside LRU",
        paragraph(
            f"""`python -m bench.eviction`: a **modelled** device ({data["machine"]}, times
            computed, nothing measured), the real scheduler over a clock of its own; a device that
            holds {data["device_sessions"]} sessions. LRU → by cost. {kept.link}"""
        ),
        table(
            ("open / held by the host", "tokens computed again", "mean TTFT, ms", "p99 TTFT, ms"),
            rows,
        ),
    )


def _change(lru: Mapping[str, float], cost: Mapping[str, float], figure: str) -> str:
    return f"{number(1e3 * lru[figure])} → {number(1e3 * cost[figure])}"


def _met(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**missed**"
