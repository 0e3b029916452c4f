"""Whose exit status is whose: ours are asyncio's to collect, those of orphans are ours."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import asyncio, os
from vlm_sessions.serve.children import Children

OWN = "(sleep 0.$((RANDOM % 5)) &) ; (exit 3 &) ; exit 7"

async def main():
    children = Children()
    with children.orphans_reaped():
        async def one():
            process = await children.start(
                ["bash", "-c", OWN], env=os.environ, cwd="/", output=asyncio.subprocess.DEVNULL
            )
            return await process.wait()
        statuses = await asyncio.gather(*(one() for _ in range(30)))
        assert statuses == [7] * 30, statuses
        async with asyncio.timeout(20):
            while True:
                try:
                    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                except ChildProcessError:
                    return
                await asyncio.sleep(0.05)

asyncio.run(main())
"""


def test_30_children_keep_their_exit_statuses_while_60_orphans_are_reaped() -> None:
    # In a process of its own: whoever adopts orphans does so to its end.
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=90, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
