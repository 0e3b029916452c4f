"""Writes docs/performance.md and its plots."""

from __future__ import annotations

from bench.publish.kept import ROOT
from bench.publish.page import performance_page
from bench.publish.plots import draw_plots


def main() -> None:
    page = ROOT / "docs" / "performance.md"
    page.write_text(performance_page())
    for path in (page, *draw_plots(page.parent / "plots")):
        print(f"wrote {path.relative_to(ROOT)}")  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()
