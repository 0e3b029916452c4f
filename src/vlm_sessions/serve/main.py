"""The way in: check what is needed, pack the model, supervise; every failure is one clear line."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from vlm_sessions.config import Settings
from vlm_sessions.serve import edge, frontend
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.model import with_model_found
from vlm_sessions.serve.packaging import default_store, ensure_packed
from vlm_sessions.serve.supervisor import Supervisor, Tools


def find_tools() -> Tools:
    """Find Java, TorchServe and HAProxy.

    Raises:
        CannotServe: one is missing; the message says how to get it.
    """
    return Tools(
        java=frontend.find_java(os.environ),
        torchserve_home=frontend.torchserve_home(),
        haproxy=edge.find_haproxy(os.environ),
    )


def run(settings: Settings, store: Path | None = None) -> int:
    """Serve in the foreground until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        settings: of everything.
        store: a model store that holds a packed ``llava``. Default: the checkout's, packed anew
            when its sources have changed.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not serve.
    """
    try:
        tools = find_tools()
        edge.check_port(settings.host, settings.port)
        if store is None:
            store = default_store()
            ensure_packed(store)
        settings = with_model_found(settings, store)
        asyncio.run(Supervisor(settings, store.absolute(), tools, dict(os.environ)).run())
    except CannotServe as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0
