"""Fixtures of the release: a checkout, and AWS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.release.checkout import Checkout
from tests.release.moto import serve_aws


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A committed checkout with the script; neither docker nor aws is on its PATH."""
    return Checkout.make(tmp_path)


@pytest.fixture
def aws() -> Iterator[Mapping[str, str]]:
    """AWS without a single repository, as the environment of a user with credentials."""
    with serve_aws() as environ:
        yield environ
