"""The findings as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_sessions.cli.doctor.finding import Finding, State

STYLES = {State.GOOD: "green", State.WEAK: "yellow", State.MISSING: "bold red"}


def report(findings: Sequence[Finding], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(
            finding.subject,
            Text(finding.state, STYLES[finding.state]),
            Text(finding.found),
            Text(finding.remedy),
        )
    console.print(table)
    num_missing = sum(finding.prevents_serving for finding in findings)
    if num_missing:
        console.print(f"This machine cannot serve yet: {num_missing} to put right.", style="red")
    else:
        console.print("This machine can serve: vlm-sessions serve", style="green")
