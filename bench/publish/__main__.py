"""Writes docs/performance.md."""

from __future__ import annotations

from bench.publish.kept import ROOT
from bench.publish.page import performance_page


def main() -> None:
    page = ROOT / "docs" / "performance.md"
    page.write_text(performance_page())
    print(f"wrote {page.relative_to(ROOT)}")  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()
