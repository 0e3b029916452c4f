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


# benchmark -> its picture
PLOTS: dict[str, Callable[[Kept], Figure]] = {"levels": levels}


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
