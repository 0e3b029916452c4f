"""Who may come in: reads a request's API key, and says which client it comes from.

    Authorization: Bearer KEY     as OpenAI's clients send it
    X-Api-Key: KEY                where something else has a claim to that header

Without a file of keys everybody may, and nobody has a name.
"""

from __future__ import annotations

from vlm_sessions.access.key_file import KeyFile
from vlm_sessions.config import Settings
from vlm_sessions.errors import Unauthorized
from vlm_sessions.protocol.http import HttpRequest

OPEN_PATHS = frozenset({"/ping"})
"""For health checks and routers, which have no key: whether it serves, and how busy it is."""

_SCHEME = "bearer "


class Guard:
    """Args:
    keys: those that open the door; ``None``: it stands open.
    """

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys = keys

    @classmethod
    def from_settings(cls, settings: Settings) -> Guard:
        """Raises:
        ConfigError: the file of keys cannot be used.
        """
        path = settings.api_keys_file
        return cls(None if path is None else KeyFile(path))

    def admit(self, request: HttpRequest) -> str | None:
        """The client that a request comes from; ``None`` where no key is asked for.

        Raises:
            Unauthorized: no key came, or one that is nobody's. Which of the two is not told.
        """
        if self._keys is None or request.path in OPEN_PATHS:
            return None
        key = _key_of(request)
        client = None if key is None else self._keys.keys().owner_of(key)
        if client is None:
            raise Unauthorized(
                "This service asks for an API key, and no valid one came with the request. Send "
                "it in the header Authorization, after the word Bearer."
            )
        return client


def _key_of(request: HttpRequest) -> str | None:
    authorization = request.headers.get("authorization", "").strip()
    if authorization.lower().startswith(_SCHEME):
        return authorization[len(_SCHEME) :].strip()
    return request.headers.get("x-api-key", "").strip() or None
