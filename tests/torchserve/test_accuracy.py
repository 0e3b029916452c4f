"""The built-in model, asked through the product: what was said before is what the session keeps.

A sample; ``python -m demo.live`` asks as many as wanted.
"""

from __future__ import annotations

from demo.dialogue import FOLLOW_UPS
from demo.live import ask_sessions
from tests.torchserve.server import Server


def test_follow_ups_in_live_sessions_are_answered_right(server: Server) -> None:
    score = ask_sessions(server.url, num_sessions=20)
    assert score.num_asked(FOLLOW_UPS) > 80
    assert score.accuracy(FOLLOW_UPS) >= 0.93, score.wrong
    assert score.accuracy() >= 0.95, score.wrong
