"""The page's pictures, drawn from the same runs: SVG that is the same for the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.keep import RESULTS
from bench.publish.kept import Kept, newest

# Without these, names inside the file would be random and its date the day's.
mpl.rcParams["svg.hashsalt"] = "vlm-sessions"
_METADATA = {"Date": None}
_COLOUR = "#3b6ea5"


def levels(kept: Kept) -> Figure:
    """Bars of a follow-up's TTFT by level, on a logarithmic axis."""
    found = kept.data["levels"]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [each["name"] for each in found]
    medians = [each["ttft"]["median"] for each in found]
    low = [each["ttft"]["median"] - each["ttft"]["smallest"] for each in found]
    high = [each["ttft"]["largest"] - each["ttft"]["median"] for each in found]
    axes.barh(names, medians, xerr=[low, high], color=_COLOUR)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"first token of a follow-up, ms ({kept.data['shape']}, {kept.data['dtype']})")
    return figure


def concurrency(kept: Kept) -> Figure:
    """Tokens a second over the number of sessions, a line for each kind."""
    found = kept.data["throughputs"]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for kind in dict.fromkeys(each["pictures"] for each in found):
        of_kind = [each for each in found if each["pictures"] == kind]
        sizes = [each["num_sessions"] for each in of_kind]
        axes.plot(sizes, [each["rate"]["median"] for each in of_kind], "o-", label=kind)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sessions answered at once")
    axes.set_ylabel(f"tokens a second ({kept.data['shape']}, {kept.data['dtype']})")
    axes.legend()
    return figure


def sessions(kept: Kept) -> Figure:
    """Memory over the number of sessions."""
    looks = kept.data["looks"]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    sizes = [look["num_sessions"] for look in looks]
    axes.plot(sizes, [look["own"] for look in looks], label="the engine's process")
    axes.plot(sizes, [look["cached"] for look in looks], label="taken in its caches")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"sessions held ({kept.data['shape']}, {kept.data['dtype']})")
    axes.set_ylabel("MiB")
    axes.legend()
    return figure


def load(kept: Kept) -> Figure:
    """Goodput over the rate that was asked for, the burst beyond the knee as well."""
    found = sorted(kept.data["levels"], key=lambda level: float(level["rate"]))
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [level["rate"] for level in found],
        [level["goodput"] for level in found],
        "o",
        color=_COLOUR,
        label="rising",
    )
    overload = kept.data["overload"]
    if overload is not None:
        burst = overload["burst"]
        axes.plot([burst["rate"]], [burst["goodput"]], "s", color="#b5523b", label="burst")
    top = max(level["rate"] for level in found)
    axes.plot([0, top], [0, top], ":", color="grey", label="all that is asked")
    axes.set_xlabel("turns asked for, a second")
    axes.set_ylabel("good turns a second")
    axes.legend()
    return figure


def soak(kept: Kept) -> Figure:
    """Memory of each process over time."""
    samples = kept.data["samples"]
    minutes = [sample["at"] / 60 for sample in samples]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in samples[0]["processes"]:
        own = [sample["processes"][name]["own"] for sample in samples]
        axes.plot(minutes, own, label=name)
    axes.axvline(kept.data["minutes_before"], linestyle=":", color="grey")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes; from the dotted line on they count")
    axes.set_ylabel("MiB of its own")
    axes.legend(loc="center right")
    return figure


# benchmark -> its picture
PLOTS: dict[str, Callable[[Kept], Figure]] = {
    "levels": levels,
    "concurrency": concurrency,
    "sessions": sessions,
    "load": load,
    "soak": soak,
}


def draw_plots(target: Path, folder: Path = RESULTS) -> list[Path]:
    """Write the pictures of the runs in ``folder`` into ``target``; their paths."""
    target.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in PLOTS.items():
        kept = newest(name, folder)
        if kept is not None:
            drawn.append(target / f"{name}.svg")
            draw(kept).savefig(drawn[-1], metadata=_METADATA)
    return drawn
