"""What the host keeps for the device: KV blocks in numbered slots, image features by digest.

Beside a GPU both are in pinned memory, and copies go on a stream of their own, beside the step that
asked for them; without one they are plain copies. Which block goes where, and what is kept, is the
scheduler's decision: nothing is ever dropped here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from vlm_sessions.engine.types import BlockLoad, BlockStore
from vlm_sessions.model.device_memory import DeviceMemory, HostMemory
from vlm_sessions.model.kv_cache import KVCache

MIB = 1 << 20
KV_SHARE = 0.25
"""Of the host's free memory, for KV blocks beside a GPU, unless a setting says otherwise."""
KV_MOST = 65_536 * MIB
FEATURE_SHARE = 0.05
FEATURE_MOST = 8192 * MIB


def host_budget(
    setting_mb: int | str,
    device: torch.device,
    *,
    share: float,
    most: int,
    memory: DeviceMemory | None = None,
) -> int:
    """Bytes of the host's memory for one of its caches.

    Args:
        setting_mb: MiB, or ``auto``: a share of what is free beside a GPU, and nothing where the
            device's memory is the host's.
        memory: of the host; by default what the machine says.
    """
    if isinstance(setting_mb, int):
        return setting_mb * MIB
    if device.type == "cpu":
        return 0
    return min(int((memory or HostMemory()).free() * share), most)


class HostKV:
    """Blocks of a ``KVCache`` on the host, ``[num_layers, 2, num_kv_heads, block_size, head_dim]``
    each.

    A block's parts are far from each other on the device. From a GPU they travel in one piece,
    which is gathered there; where both are one memory, each is copied to where it belongs.

    Args:
        gathers: whether blocks travel in one piece; ``None``: what is best for the device.
    """

    def __init__(self, cache: KVCache, num_slots: int, *, gathers: bool | None = None) -> None:
        self._cache = cache
        pool = cache.bits
        size = (num_slots, *pool.shape[:3], *pool.shape[4:])
        is_cuda = cache.device.type == "cuda"
        self._gathers = is_cuda if gathers is None else gathers
        self._slots = torch.empty(size, dtype=pool.dtype, pin_memory=is_cuda)
        self._lane: _Lane = _SideStream(cache.device) if is_cuda else _SameThread()

    def store(self, moves: Sequence[BlockStore]) -> None:
        """Copy blocks to the host. They may be written over at once."""
        if not moves:
            return
        bits = self._cache.bits
        rows: Sequence[torch.Tensor] = [bits[:, :, :, move.block] for move in moves]
        used: list[torch.Tensor] = []
        if self._gathers:
            blocks = torch.tensor([move.block for move in moves], device=bits.device)
            gathered = bits.index_select(3, blocks).movedim(3, 0).contiguous()
            rows, used = gathered.unbind(), [gathered]

        def copy() -> None:
            for row, move in zip(rows, moves, strict=True):
                self._slots[move.slot].copy_(row, non_blocking=True)

        self._lane.run(copy, used)

    def load(self, moves: Sequence[BlockLoad]) -> None:
        """Copy blocks back. They are there after ``join``, and must be left alone until then."""
        if not moves:
            return
        bits = self._cache.bits
        rows: Sequence[torch.Tensor] = [bits[:, :, :, move.block] for move in moves]
        used: list[torch.Tensor] = []
        if self._gathers:
            blocks = torch.tensor([move.block for move in moves], device=bits.device)
            gathered = bits.new_empty(len(moves), *self._slots.shape[1:])
            rows, used = gathered.unbind(), [gathered, blocks]

        def copy() -> None:
            for row, move in zip(rows, moves, strict=True):
                row.copy_(self._slots[move.slot], non_blocking=True)
                self._cache.clear_behind(row, move.num_tokens)
            if used:
                bits.index_copy_(3, blocks, gathered.movedim(0, 3))

        self._lane.run(copy, used, num_loaded=len(moves))

    def join(self) -> None:
        """Have what is computed from now on see what was loaded."""
        self._lane.join()

    def take_loaded(self) -> tuple[int, float]:
        """Blocks whose loads were seen to be done since the last call, and the seconds for them."""
        return self._lane.take_loaded()


class _Lane(Protocol):
    """Where copies are made, and how it is known when."""

    def run(
        self, copy: Callable[[], None], tensors: Sequence[torch.Tensor], *, num_loaded: int = 0
    ) -> None:
        """Make copies.

        Args:
            tensors: memory of the device that they use.
            num_loaded: blocks that they bring.
        """
        ...

    def join(self) -> None: ...

    def take_loaded(self) -> tuple[int, float]: ...


class _SameThread:
    """At once."""

    def __init__(self) -> None:
        self._num_loaded = 0
        self._seconds = 0.0

    def run(
        self, copy: Callable[[], None], tensors: Sequence[torch.Tensor], *, num_loaded: int = 0
    ) -> None:
        started = time.perf_counter()
        copy()
        if num_loaded:
            self._num_loaded += num_loaded
            self._seconds += time.perf_counter() - started

    def join(self) -> None:
        pass

    def take_loaded(self) -> tuple[int, float]:
        loaded = self._num_loaded, self._seconds
        self._num_loaded, self._seconds = 0, 0.0
        return loaded


class _SideStream:
    """On a stream of a GPU, one copy after another, beside what is computed."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._timed: list[tuple[int, torch.cuda.Event, torch.cuda.Event]] = []
        """(blocks, begun, done) of loads that nobody has asked about"""

    def run(
        self, copy: Callable[[], None], tensors: Sequence[torch.Tensor], *, num_loaded: int = 0
    ) -> None:
        # What is to be copied must have been computed, and what is written over, read.
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        done = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            begun.record(self._stream)
            copy()
            done.record(self._stream)
        for tensor in tensors:
            tensor.record_stream(self._stream)  # its memory is not given away before
        if num_loaded:
            self._timed.append((num_loaded, begun, done))

    def join(self) -> None:
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def take_loaded(self) -> tuple[int, float]:
        num_loaded, seconds = 0, 0.0
        while self._timed:
            count, begun, done = self._timed[0]
            if not done.query():  # type: ignore[no-untyped-call]
                break
            del self._timed[0]
            num_loaded += count
            seconds += begun.elapsed_time(done) / 1000
        return num_loaded, seconds
