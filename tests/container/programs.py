"""Programs that the tests here need besides an engine; scripts/need-docker installs them."""

from __future__ import annotations

import os
import shutil

import pytest


def need_program(name: str) -> str:
    """Its path. Where it is missing the test is skipped, or fails when CI_CONTAINER=required."""
    if found := shutil.which(name):
        return found
    reason = f"{name} is missing; scripts/need-docker installs it"
    if os.environ.get("CI_CONTAINER") == "required":
        pytest.fail(f"CI_CONTAINER=required, and {reason}")
    pytest.skip(reason)
