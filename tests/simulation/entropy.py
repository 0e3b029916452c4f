"""The product's sources of chance, given by the seed."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from unittest import mock


@contextmanager
def seeded_entropy(random: Random) -> Iterator[None]:
    """Inside, ids of sessions and turns and the seeds of sampling come from ``random``."""

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=random.getrandbits(128))

    def token_hex(num_bytes: int) -> str:
        return random.randbytes(num_bytes).hex()

    with (
        mock.patch.object(uuid, "uuid4", uuid4),
        mock.patch.object(secrets, "token_hex", token_hex),
        mock.patch.object(secrets, "randbits", random.getrandbits),
    ):
        yield
