"""An engine process over a ``FakeRunner``: run as ``fake_child.py OPTIONS FD``, OPTIONS in JSON.

``fail``: raise this message while loading. ``die``: exit without a word while loading. ``hang``:
the step, counted from 1, that never ends. All others go to ``FakeRunner``.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from vlm_sessions.engine.fake import FakeRunner
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.process import serve_engine
from vlm_sessions.engine.types import Plan


def main() -> None:
    options = json.loads(sys.argv[1])
    failure = options.pop("fail", None)
    dies = options.pop("die", False)
    hangs_at = options.pop("hang", None)
    num_steps = 0

    def before_step(_: Plan) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == hangs_at:
            threading.Event().wait()

    def make_runner() -> FakeRunner:
        if failure is not None:
            raise RuntimeError(failure)
        if dies:
            os._exit(7)
        return FakeRunner(before_step=before_step, **options)

    serve_engine(make_runner, int(sys.argv[-1]), EngineLimits())


if __name__ == "__main__":
    main()
