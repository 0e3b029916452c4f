"""A short run of the fuzzer against the product itself: no 5xx, and replies as documented."""

from __future__ import annotations

import pytest

from bench.fuzz.catalog import NEED_SERVICE, TARGETS
from bench.fuzz.run import feed
from tests.torchserve.server import Server

NUM_INPUTS = {"service": 300, "document": 60}


@pytest.mark.parametrize("name", sorted(NEED_SERVICE))
def test_hostile_requests_are_answered_as_documented_and_leave_nothing(
    server: Server, name: str
) -> None:
    fed = feed(TARGETS[name](server.url), name, NUM_INPUTS[name], seed=7)

    assert fed.findings == []
    assert fed.num_inputs >= NUM_INPUTS[name]
    assert any("200" in outcome for outcome in fed.outcomes)
    assert any("400" in outcome for outcome in fed.outcomes)
