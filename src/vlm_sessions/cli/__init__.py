"""The command ``vlm-sessions``: ask, chat, serve, doctor.

    app           commands and their options, exit codes
    conversation  what ask and chat do, given a client and two streams
    doctor        what this machine lacks to serve

Nothing heavy is imported before a command needs it: ``ask`` starts without torch, transformers or
the server.
"""

from vlm_sessions.cli.app import main

__all__ = ["main"]
