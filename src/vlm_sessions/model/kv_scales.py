"""Scales for keys and values of 8 bits: measured once, on a prompt that is like no other.

Numbers of the format e4m3 have three bits of fraction wherever they lie between 2^-6 and 448, so a
scale decides nothing about precision: it only has to keep what will ever come inside. So they are
measured once, for each layer, side and head, with room to spare, and then never change: the bytes
of a block mean the same wherever they are copied to, for as long as the engine lives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vlm_sessions.engine.types import TokenSpan
from vlm_sessions.model.attention.interface import AttentionBackend
from vlm_sessions.model.kv_cache import KVCache, KVShape, Layout
from vlm_sessions.model.text.interface import TextModel

NUM_TOKENS = 256
HEADROOM = 8.0
"""How far what comes may exceed what was measured."""


def measure_scales(
    text: TextModel,
    shape: KVShape,
    make_attention: Callable[[KVCache], AttentionBackend],
    *,
    vocab_size: int,
    device: torch.device,
) -> torch.Tensor:
    """``[num_layers, 2, num_kv_heads]`` float32.

    Args:
        shape: of a cache in the model's own type.
        make_attention: that attends to one.
    """
    cache = KVCache(
        shape, num_blocks=1, block_size=NUM_TOKENS, device=device, layout=Layout.HEADS_FIRST
    )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (NUM_TOKENS,), generator=generator)
    span = TokenSpan("scales", tuple(tokens.tolist()), 0, (0,))
    with torch.inference_mode():
        text.forward(text.embed(tokens.to(device)), make_attention(cache).plan((span,)))
    largest = torch.stack(
        [pool.float().abs().amax(dim=(2, 3, 4)) for pool in (cache.keys, cache.values)], dim=1
    )
    return (largest * HEADROOM).clamp(min=1e-3) / torch.finfo(torch.float8_e4m3fn).max
