"""The file of API keys: found, and found to be usable, before anything slow is started."""

from __future__ import annotations

from vlm_sessions.access.key_file import KeyFile
from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.serve.errors import CannotServe


def with_keys_found(settings: Settings) -> Settings:
    """The settings with their file of keys, if they name one, as an absolute path.

    A relative one is meant from where the command was given, and the worker runs elsewhere.

    Raises:
        CannotServe: the file cannot be used, or holds no key.
    """
    if settings.api_keys_file is None:
        return settings
    path = settings.api_keys_file.absolute()
    try:
        KeyFile(path)
    except ConfigError as exc:
        raise CannotServe(str(exc)) from exc
    return settings.model_copy(update={"api_keys_file": path})
