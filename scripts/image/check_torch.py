"""In the image's build: `check_torch.py cpu|cuda|auto` fails if torch is in the other build."""

import sys

import torch

wanted, cuda = sys.argv[1], torch.version.cuda
if wanted != "auto" and (wanted == "cuda") != bool(cuda):
    sys.exit(
        f"TORCH={wanted}, and pip's index gave torch {torch.__version__}. Pass the index of the "
        "other build: --build-arg TORCH_INDEX=URL; PyTorch's installation page names it."
    )
