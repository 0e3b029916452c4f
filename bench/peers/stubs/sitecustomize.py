"""Runs first in each process of these peers: torchvision's ``nms`` operators, by name only.

torchvision's compiled part fits one build of torch, and for torch's CPU build there is none on the
public index. Importing torchvision needs these two to exist; nothing that LLaVA does calls them.
"""

from __future__ import annotations

from typing import Any

import torch

LIBRARY: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for _name in ("nms", "qnms"):
    LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
