"""Writes docs/performance.md, its plots, and the README's figures."""

from __future__ import annotations

from bench.publish.kept import ROOT, newest
from bench.publish.page import performance_page
from bench.publish.plots import draw_plots
from bench.publish.readme import with_figures


def main() -> None:
    page = ROOT / "docs" / "performance.md"
    page.write_text(performance_page())
    readme = ROOT / "README.md"
    kept = newest("serve")
    if kept is not None:
        readme.write_text(with_figures(readme.read_text(), kept))
    for path in (page, readme, *draw_plots(page.parent / "plots")):
        print(f"wrote {path.relative_to(ROOT)}")  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()
