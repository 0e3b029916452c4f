"""Where the worker's own log lines go: to the supervisor's terminal, past TorchServe's log.

TorchServe's front end swallows its worker's stdout and stderr into a log file. Our lines are what
the person in front of the terminal wants, so stderr is pointed at the supervisor's log socket. The
engine's process inherits it. What TorchServe itself prints stays on stdout, in TorchServe's log.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def redirect_stderr(log_socket: Path) -> None:
    """Make file descriptor 2 a connection to ``log_socket``; without a listener, change nothing.

    The supervisor also learns this process's id from the connection, and so when it dies.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(log_socket))
        except OSError:
            return
        sys.stderr.flush()
        os.dup2(connection.fileno(), 2)
