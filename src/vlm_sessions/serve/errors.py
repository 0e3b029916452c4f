"""Why the service cannot be started."""

from __future__ import annotations


class CannotServe(Exception):
    """Something outside the product is missing or in the way. The message says what to do."""
