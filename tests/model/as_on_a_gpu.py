"""The path for GPUs without one: all but its kernels and its graphs, which are stood in for."""

from __future__ import annotations

import pytest
import torch

from vlm_sessions.config import Settings
from vlm_sessions.model import runner as runner_module
from vlm_sessions.model.attention.paged_call import plain_kernel
from vlm_sessions.model.kernels import Kernels, choose_kernels, paged_kernels
from vlm_sessions.model.loader import LoadedModel
from vlm_sessions.model.text.graphs import Replay, Work


class CallAgain:
    """A graph that calls the work again, into the same tensor, as a CUDA graph would."""

    def __init__(self) -> None:
        self.num_captured = 0
        self.num_replayed = 0

    def __call__(self, work: Work) -> Replay:
        self.num_captured += 1
        out = work().clone()

        def replay() -> torch.Tensor:
            self.num_replayed += 1
            return out.copy_(work())

        return replay


def take_gpu_path(monkeypatch: pytest.MonkeyPatch) -> CallAgain:
    """Have runners that are made from now on take it, with the plain kernel and graphs by
    ``CallAgain``; prefixes are shared however little that saves."""
    capture = CallAgain()

    def choose(settings: Settings, loaded: LoadedModel) -> Kernels:
        usual = choose_kernels(settings, loaded)
        return paged_kernels(settings, loaded, usual, kernel=plain_kernel, capture=capture)

    monkeypatch.setattr(runner_module, "choose_kernels", choose)
    monkeypatch.setattr("vlm_sessions.model.attention.shared_prefixes.LEAST_SAVED", 1)
    return capture
