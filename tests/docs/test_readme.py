"""The README's code blocks are run, in order, against a service started as the page says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.blocks import Block, read_blocks
from tests.docs.conftest import ROOT, VENV, ReadmeService

README = ROOT / "README.md"
SERVE = "make serve\n"
COMMANDS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
# Those for sh are about the container: tests/container runs them.
BLOCKS = [block for block in read_blocks(README) if block.language in COMMANDS]
BLOCK_SECONDS = 100.0


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}")
def test_a_block_of_the_readme_does_what_it_says(
    block: Block, readme_service: ReadmeService
) -> None:
    if block.code == SERVE:
        return  # it is running: the fixture has started it
    code = block.code.replace("127.0.0.1:8080", readme_service.address)
    code = code.replace(
        "vlm-sessions ask", f"vlm-sessions ask --url http://{readme_service.address}"
    )
    code = code.replace(
        "vlm-sessions chat", f"vlm-sessions chat --url http://{readme_service.address}"
    )
    ran = subprocess.run(
        [*COMMANDS[block.language], code.replace(".venv/bin/", f"{VENV}/bin/")],
        cwd=ROOT,
        env=readme_service.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=BLOCK_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip(), "a block of the README shows something"
    assert block.prints(ran.stdout), f"the page says:\n{block.output}\nit was:\n{ran.stdout}"


def test_the_page_has_its_blocks() -> None:
    assert {block.language for block in BLOCKS} == set(COMMANDS)
    assert len(BLOCKS) >= 9
    assert sum(block.code == SERVE for block in BLOCKS) == 1
