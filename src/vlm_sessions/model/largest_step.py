"""The largest step that can come, with made-up tokens, done once to see what memory it needs."""

from __future__ import annotations

import torch

from vlm_sessions.config import Settings
from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.checkpoint import Checkpoint
from vlm_sessions.model.kernels import Kernels
from vlm_sessions.model.kv_cache import KVCache
from vlm_sessions.model.tower import VisionTower


def largest_step(
    settings: Settings,
    kernels: Kernels,
    tower: VisionTower,
    checkpoint: Checkpoint,
    device: torch.device,
) -> None:
    """Encode as many images as go together, then compute the last chunk of a whole context.

    Needs a few KV blocks of its own, which are gone afterwards. It also has the libraries load
    their kernels, which would otherwise happen in the first client's turn.
    """
    block_size = settings.block_size
    num_tokens = min(settings.max_batch_tokens, checkpoint.max_context)
    start = checkpoint.max_context - num_tokens
    own = -(-num_tokens // block_size) + 1
    with torch.inference_mode():
        tower.compute_largest()
        cache = KVCache(
            kernels.kv_shape,
            num_blocks=own + 1,
            block_size=block_size,
            device=device,
            layout=kernels.kv_layout,
            scales=kernels.kv_scales,
        )
        # What lies before the chunk is read only, so that one block serves for all of it.
        blocks = (0,) * (start // block_size) + tuple(range(1, own + 1))
        span = TokenSpan("probe", (0,) * num_tokens, start, blocks)
        embeds = kernels.text.embed(torch.zeros(num_tokens, dtype=torch.long, device=device))
        hidden = kernels.text.forward(embeds, kernels.make_attention(cache).plan((span,)))
        kernels.text.logits(hidden[: settings.max_running])
