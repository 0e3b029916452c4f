"""The paged pool of keys and values: one tensor, cut into blocks that anyone may fill.

It knows slots, not conversations: which block belongs to whom is the scheduler's business.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from enum import Enum, auto

import torch


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's keys and values need."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        values = self.num_layers * self.num_kv_heads * self.head_dim
        return 2 * values * self.dtype.itemsize


class Layout(Enum):
    """What stands together in memory. The shape in which the pool is addressed is always the same:
    ``[num_layers, 2, num_kv_heads, num_blocks, block_size, head_dim]``, keys before values."""

    HEADS_FIRST = auto()
    """Consecutive blocks are, head by head, the matrices that attention multiplies: on a CPU a
    context whose blocks follow each other is read where it lies, and to the exact slot."""
    TOKENS_FIRST = auto()
    """All heads of a token stand together, as the paged kernels for GPUs want it: in memory
    ``[num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]``. They read whole blocks."""


class KVCache:
    """Keys and values of all layers, in one tensor."""

    def __init__(
        self,
        shape: KVShape,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        layout: Layout = Layout.HEADS_FIRST,
        scales: torch.Tensor | None = None,
    ) -> None:
        self.num_layers = shape.num_layers
        self.block_size = block_size
        self.device = device
        self.is_read_whole = layout is Layout.TOKENS_FIRST
        """Whether slots behind a conversation's last are read too, with a weight of 0. Nothing may
        stand there but numbers: should another conversation have left a NaN, 0 · NaN is NaN. (What
        keys give there is masked out, whatever it is.)"""
        self.scales = scales
        """``[num_layers, 2, num_kv_heads]`` float32: what is stored is to be multiplied by them."""
        self._pool = _allocate(shape, num_blocks, block_size, device, layout)
        # Of 8-bit numbers, which torch does little with, the bits are moved.
        self._bits = self._pool if scales is None else self._pool.view(torch.uint8)

    @property
    def keys(self) -> torch.Tensor:
        """``[num_layers, num_kv_heads, num_blocks, block_size, head_dim]``, a view."""
        return self._pool[:, 0]

    @property
    def values(self) -> torch.Tensor:
        """As ``keys``."""
        return self._pool[:, 1]

    @property
    def bits(self) -> torch.Tensor:
        """All of it, to be moved as it is:
        ``[num_layers, 2, num_kv_heads, num_blocks, block_size, head_dim]``."""
        return self._bits

    def slots(self, layer: int) -> torch.Tensor:
        """A layer's keys, then its values, head by head, blocks in a row:
        ``[2, num_kv_heads, num_blocks * block_size, head_dim]``, a view. Of scaled ones, the bits.
        """
        pool = self._bits[layer]
        return pool.view(*pool.shape[:2], -1, pool.shape[-1])

    def clear(self, blocks: torch.Tensor) -> None:
        """Forget the values that blocks ``[num_blocks]`` hold, in all layers: what is to be done
        with a block that is begun, if the cache ``is_read_whole``."""
        self._bits[:, 1].index_fill_(2, blocks, 0)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Take over the first ``num_tokens`` slots of a block, in all layers. Those behind them are
        forgotten where they would be read. Both may be the same block."""
        self._bits[:, :, :, target, :num_tokens] = self._bits[:, :, :, source, :num_tokens]
        self.clear_behind(self._bits[:, :, :, target], num_tokens)

    def clear_behind(self, block: torch.Tensor, num_tokens: int) -> None:
        """Forget values of ``[num_layers, 2, num_kv_heads, block_size, head_dim]`` that come after
        so many tokens, if they would be read."""
        if self.is_read_whole:
            block[:, 1, :, num_tokens:] = 0

    def write(self, layer: int, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """Store rows ``[num_tokens, 2 * num_kv_heads, head_dim]``, keys before values, at ``slots``
        ``[num_tokens]``."""
        num_tokens, num_heads, head_dim = keys_values.shape
        rows = keys_values.view(num_tokens, 2, num_heads // 2, head_dim).permute(1, 2, 0, 3)
        if self.scales is not None:
            rows = quantize(rows, self.scales[layer, :, :, None, None]).view(torch.uint8)
        self.slots(layer).index_copy_(2, slots, rows)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of the keys and values of blocks ``[num_blocks]``, positions in a row:
        ``[num_kv_heads, num_blocks * block_size, head_dim]`` each; scaled ones as float32."""
        both = self._bits[layer].index_select(2, blocks).flatten(2, 3)
        if self.scales is not None:
            both = both.view(self._pool.dtype).float() * self.scales[layer, :, :, None, None]
        keys, values = both
        return keys, values


def quantize(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Values as 8-bit numbers (e4m3) to be multiplied by ``scales``.

    The cast does not stop at the largest one, 448: beyond, it gives NaN.
    """
    largest = torch.finfo(torch.float8_e4m3fn).max
    return (values.float() / scales).clamp(-largest, largest).to(torch.float8_e4m3fn)


def _allocate(
    shape: KVShape, num_blocks: int, block_size: int, device: torch.device, layout: Layout
) -> torch.Tensor:
    if layout is Layout.HEADS_FIRST:
        size = (shape.num_layers, 2, shape.num_kv_heads, num_blocks, block_size, shape.head_dim)
        return _zeros(size, shape.dtype, device)
    size = (shape.num_layers, 2, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    return _zeros(size, shape.dtype, device).permute(0, 1, 4, 2, 3, 5)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU, memory that the system gives only when it is written to: a service that is little
    used stays small, and starts at once. ``torch.zeros`` would write to all of it. In huge pages it
    would be given, and cleared, two megabytes for each layer and head at a conversation's first
    token."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(size) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a system that has no huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(size)
