"""``vlm-sessions serve``: the parent of TorchServe and of the edge."""

from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.main import find_tools, run
from vlm_sessions.serve.packaging import default_store, ensure_packed, find_store

__all__ = ["CannotServe", "default_store", "ensure_packed", "find_store", "find_tools", "run"]
