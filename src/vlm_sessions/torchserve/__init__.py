"""The adapter between TorchServe's worker process and the service: the one place that knows both.

    front end (Java) ──Unix socket──▶ TorchServe's receive thread ──▶ handler ──▶ Worker.handle
                     ◀──────────────────── FrontEndSocket.send ◀───────────────────┘

It knows nothing of sessions, models or dialects, and does not import ``ts``: what it needs from
there (the message encoder, the class that is handed the socket) is passed in by the handler.
"""

from vlm_sessions.torchserve.worker import App, Worker

__all__ = ["App", "Worker"]
