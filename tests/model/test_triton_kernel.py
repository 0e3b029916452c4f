"""The Triton kernel gives what the plain one gives, in Triton's interpreter, on the CPU.

Skipped where Triton is not installed. The interpreter knows no bfloat16: that is for ``tests/gpu``.
It runs in a process of its own, since it is chosen when Triton is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

PROGRAM = """

import torch
from vlm_sessions.config import Settings
from vlm_sessions.model.attention.gpu import TOLERANCES, probe
from vlm_sessions.model.attention import triton_kernel as module
from vlm_sessions.model.kv_cache import KVShape

num_tried = 0
for num_kv_heads, head_dim, page_size in ((2, 24, 8), (1, 16, 16)):
    for dtype, stored in (
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.float16, torch.float8_e4m3fn),
    ):
        for wanted in (1, 264):  # contexts whole, and in parts
            module.WANTED_PROGRAMS = wanted
            error = probe(
                module.triton_kernel,
                Settings(block_size=page_size),
                KVShape(1, num_kv_heads, head_dim, stored),
                num_heads=4,
                dtype=dtype,
                device=torch.device("cpu"),
            )
            assert error < TOLERANCES[dtype], (num_kv_heads, head_dim, page_size, dtype, error)
            num_tried += 1
print(num_tried)
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_in_its_interpreter_it_attends_as_the_plain_kernel_does() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "12"
