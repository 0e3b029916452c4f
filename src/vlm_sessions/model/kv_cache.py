"""The paged pool of keys and values: two tensors, cut into blocks that anyone may fill.

It knows slots, not conversations: which block belongs to whom is the scheduler's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm_sessions.errors import ConfigError

MIB = 1 << 20
CPU_DEFAULT_BYTES = 512 * MIB
CUDA_DEFAULT_SHARE = 0.85  # of the memory free after the weights are loaded


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


def count_blocks(
    shape: KVShape, *, block_size: int, budget_mb: int, device: torch.device, max_context: int
) -> int:
    """How many blocks of ``block_size`` tokens fit ``budget_mb`` MiB; 0 chooses for the device.

    Raises:
        ConfigError: not even one block fits.
    """
    if budget_mb:
        budget = budget_mb * MIB
    elif device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget = int(free * CUDA_DEFAULT_SHARE)
    else:
        budget = CPU_DEFAULT_BYTES
    num_blocks = budget // (block_size * shape.bytes_per_token)
    if num_blocks < 1:
        raise ConfigError(
            f"{budget // MIB} MiB hold no KV block of {block_size} tokens, {shape.bytes_per_token} "
            f"bytes each. Raise VLM_KV_CACHE_MB; one whole context of {max_context} tokens needs "
            f"{-(-max_context * shape.bytes_per_token // MIB)} MiB."
        )
    return num_blocks


class KVCache:
    """Keys and values: ``[num_layers, num_kv_heads, num_blocks, block_size, head_dim]`` each.

    Heads come first, so that a conversation's gathered blocks are, head by head, the matrices that
    attention multiplies: with blocks first, every layer would copy them once more to get there.
    """

    def __init__(
        self, shape: KVShape, *, num_blocks: int, block_size: int, device: torch.device
    ) -> None:
        size = (shape.num_layers, shape.num_kv_heads, num_blocks, block_size, shape.head_dim)
        self.block_size = block_size
        self._keys = torch.zeros(size, dtype=shape.dtype, device=device)
        self._values = torch.zeros_like(self._keys)

    def clear(self, blocks: torch.Tensor) -> None:
        """Forget what blocks ``[num_blocks]`` hold, in all layers.

        A block that is begun must be cleared: its slots that are not yet written are read with a
        weight of 0, and should another conversation have left a NaN there, 0 · NaN is NaN. (What
        keys give there is masked out, whatever it is.)
        """
        self._values.index_fill_(2, blocks, 0)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Take over the first ``num_tokens`` slots of a block, in all layers, and forget the others
        of ``target``, as ``clear`` does. Both may be the same block."""
        for pool in (self._keys, self._values):
            pool[:, :, target, :num_tokens] = pool[:, :, source, :num_tokens]
        self._values[:, :, target, num_tokens:] = 0

    def write(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Store rows of ``[num_kv_heads, num_tokens, head_dim]`` at ``slots`` ``[num_tokens]``."""
        self._keys[layer].flatten(1, 2).index_copy_(1, slots, keys)
        self._values[layer].flatten(1, 2).index_copy_(1, slots, values)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of block tables ``[…, num_blocks]``, positions in a row:
        ``[num_kv_heads, …, num_blocks * block_size, head_dim]``, contiguous."""
        return (
            _gather(self._keys[layer], blocks),
            _gather(self._values[layer], blocks),
        )


def _gather(pool: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    rows = pool.flatten(2).index_select(1, blocks.flatten())
    return rows.view(pool.shape[0], *blocks.shape[:-1], -1, pool.shape[-1])
