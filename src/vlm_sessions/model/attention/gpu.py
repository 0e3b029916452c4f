"""Which paged kernel serves on a GPU: the first that is there and right.

A kernel is believed only after it has computed a small problem as ``plain_kernel`` does, on the
device and with the types that it is to serve with. One that is missing, refuses or errs is logged
and passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import isnan

import torch

from vlm_sessions.config import Settings
from vlm_sessions.model.attention.paged_call import PagedCall, PagedKernel, plain_kernel
from vlm_sessions.model.attention.varlen_kernel import (
    PAGE_MULTIPLE,
    has_block_tables,
    varlen_kernel,
)
from vlm_sessions.model.kv_cache import KVShape

_log = logging.getLogger(__name__)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the probe, whose values are normally distributed: largest difference of an output."""


def choose_paged_kernel(
    settings: Settings, shape: KVShape, *, num_heads: int, dtype: torch.dtype, device: torch.device
) -> PagedKernel | None:
    """A kernel for the device; ``None`` if none is right, or none is wanted.

    Args:
        shape: of the cache it is to read.
        num_heads: of the queries.
        dtype: of the queries.
    """
    for name, load in _candidates(settings, shape, dtype):
        try:
            kernel = load()
            error = probe(kernel, settings, shape, num_heads=num_heads, dtype=dtype, device=device)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and the next one tried
            _log.warning("the paged kernel %s cannot be used here", name, exc_info=True)
            continue
        if error <= TOLERANCES[dtype]:
            _log.info("attention on %s: the paged kernel %s", device, name)
            return kernel
        _log.warning("the paged kernel %s errs by %g here, and is not used", name, error)
    return None


def _candidates(
    settings: Settings, shape: KVShape, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], PagedKernel]]]:
    wanted = settings.paged_kernel
    if wanted in {"auto", "triton"} and find_spec("triton"):
        yield "triton", _load_triton
    fits = settings.block_size % PAGE_MULTIPLE == 0 and shape.dtype == dtype != torch.float32
    if wanted in {"auto", "varlen"} and fits and has_block_tables():
        yield "varlen", lambda: varlen_kernel


def _load_triton() -> PagedKernel:
    from vlm_sessions.model.attention.triton_kernel import triton_kernel  # noqa: PLC0415

    return triton_kernel


def probe(
    kernel: PagedKernel,
    settings: Settings,
    shape: KVShape,
    *,
    num_heads: int,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """How far a kernel is from ``plain_kernel``, over prompts and decoding: the largest difference.

    Infinity if it says something that is no number.
    """
    generator = torch.Generator().manual_seed(0)
    size = settings.block_size
    lengths = (size + 3, 1, 3 * size + 20, 2 * size + 300)  # the last one is read in parts
    widest = -(-max(lengths) // size)
    order = torch.randperm(len(lengths) * widest, generator=generator)
    tables = order.view(len(lengths), widest).to(device, torch.int32)
    keys, values = (
        torch.randn(order.numel(), size, shape.num_kv_heads, shape.head_dim, generator=generator)
        .to(device, shape.dtype)
        for _ in range(2)
    )  # fmt: skip
    scales = None
    if shape.dtype != dtype:
        scales = torch.rand(2, shape.num_kv_heads, generator=generator).to(device) + 0.5
    worst = 0.0
    for counts, causal in (((1, 1, 1, 1), True), ((2, 1, 20, 1), True), ((2, 1, 20, 0), False)):
        num_queries = sum(counts)
        queries = torch.randn(num_queries, num_heads, shape.head_dim, generator=generator)
        call = PagedCall(
            starts=torch.tensor([0, *counts], device=device).cumsum(0).to(torch.int32),
            tables=tables,
            lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
            max_queries=max(counts),
            max_length=max(lengths),
            causal=causal,
        )
        got, wanted = (
            use(
                queries.to(device, dtype),
                keys,
                values,
                call,
                scale=shape.head_dim**-0.5,
                kv_scales=scales,
            )
            for use in (kernel, plain_kernel)
        )
        for one, other in zip(got, wanted, strict=True):
            difference = (one.float() - other.float()).abs().max().item()
            worst = float("inf") if isnan(difference) else max(worst, difference)
    return worst
