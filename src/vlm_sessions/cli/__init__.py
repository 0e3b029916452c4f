"""The command ``vlm-sessions``: ask, chat, serve, router, cluster, doctor.

    app           commands and their options, exit codes
    conversation  what ask and chat do, given a client and two streams
    doctor        what this machine lacks to serve

Nothing heavy is imported before a command needs it: ``ask`` starts without torch, transformers or
the server.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the console script."""
    if os.getpid() == 1:
        # What a container's first process does not listen to, it does not get; and the import below
        # takes half a second.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from vlm_sessions.cli.app import main as run  # noqa: PLC0415

    run()
