"""Paged attention in Triton: pages of any size, keys of 16 or 8 bits, prompts and decoding alike.

torch's own paged kernel wants pages of 256 tokens, and not every version of torch has it. This one
does without: the pool stays cut as finely as sharing and exact reuse want it.

    program   a tile of queries of one sequence, all query heads of one key head, one part of the
              keys; walks over its keys with a running softmax (Dao, FlashAttention-2, 2023)
    parts     where programs would be too few to fill the GPU, a context is split and the parts are
              put together afterwards (Flash-Decoding, 2023)

How many programs there are does not depend on the lengths, only on the shapes: a call can be
captured in a CUDA graph and replayed with other lengths. This file needs Triton; it runs on a CPU
as well, slowly, with ``TRITON_INTERPRET=1``.
"""

# Triton has no types, and its kernels are compiled from their source as it stands.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vlm_sessions.model.attention.paged_call import PagedCall

WANTED_PROGRAMS = 264
"""Two for each multiprocessor of an H100 or H200."""
MAX_PARTS = 8


@triton.jit
def _find_sequence(starts, num_sequences, tile, tile_queries: tl.constexpr):
    """Sequence ``i`` has its tiles from ``starts[i] // tile_queries + i`` on: which has this."""
    low: tl.int32 = 0
    high = num_sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts + middle) // tile_queries + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


# One compilation serves any number of them: a one would otherwise be compiled in as a constant.
@triton.jit(do_not_specialize=["num_sequences", "num_queries"])
def _attend(
    queries, keys, values, out, lse, starts, tables, lengths, kv_scales,
    scale, num_sequences, num_queries, num_heads,
    query_stride, query_head_stride,
    key_page_stride, key_token_stride, key_head_stride,
    value_page_stride, value_token_stride, value_head_stride,
    table_stride,
    HEADS_PER_KEY: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, SCALED: tl.constexpr, NUM_PARTS: tl.constexpr,
):  # fmt: skip
    """One program. A tile's rows are pairs of a query and one of the key head's query heads."""
    tile, key_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tile_queries: tl.constexpr = TILE_ROWS // HEADS_PER_KEY

    sequence = _find_sequence(starts, num_sequences, tile, tile_queries)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    first = (tile - (start // tile_queries + sequence)) * tile_queries
    if first >= count:
        return

    length = tl.load(lengths + sequence)
    end = length
    if CAUSAL:
        end = tl.minimum(length, length - count + first + tile_queries)
    each = tl.cdiv(tl.cdiv(end, NUM_PARTS), TILE_KEYS) * TILE_KEYS
    begin = part * each
    end = tl.minimum(end, begin + each)

    rows = tl.arange(0, TILE_ROWS)
    dims = tl.arange(0, PADDED_DIM)
    query = first + rows // HEADS_PER_KEY
    head = key_head * HEADS_PER_KEY + rows % HEADS_PER_KEY
    row_mask = (rows < tile_queries * HEADS_PER_KEY) & (query < count)
    dim_mask = dims < HEAD_DIM
    q = tl.load(
        queries
        + (start + query).to(tl.int64)[:, None] * query_stride
        + head[:, None] * query_head_stride
        + dims[None, :],
        mask=row_mask[:, None] & dim_mask[None, :],
        other=0.0,
    )
    value_scale = 1.0
    if SCALED:
        scale = scale * tl.load(kv_scales + key_head)
        value_scale = tl.load(kv_scales + num_heads // HEADS_PER_KEY + key_head)

    highest = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    acc = tl.zeros([TILE_ROWS, PADDED_DIM], tl.float32)
    for first_key in range(begin, end, TILE_KEYS):
        key = first_key + tl.arange(0, TILE_KEYS)
        key_mask = key < end
        page = tl.load(tables + sequence * table_stride + key // PAGE_SIZE, mask=key_mask, other=0)
        page = page.to(tl.int64)
        k = tl.load(
            keys
            + (page * key_page_stride + (key % PAGE_SIZE) * key_token_stride)[None, :]
            + key_head * key_head_stride
            + dims[:, None],
            mask=dim_mask[:, None] & key_mask[None, :],
            other=0.0,
        ).to(q.dtype)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        seen = key_mask[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= length - count + query[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet must not make NaN of (-inf) - (-inf).
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp(scores - base[:, None])
        keep = tl.exp(highest - base)
        v = tl.load(
            values
            + (page * value_page_stride + (key % PAGE_SIZE) * value_token_stride)[:, None]
            + key_head * value_head_stride
            + dims[None, :],
            mask=key_mask[:, None] & dim_mask[None, :],
            other=0.0,
        ).to(q.dtype)
        acc = acc * keep[:, None] + tl.dot(weights.to(q.dtype), v, input_precision="ieee")
        total = total * keep + tl.sum(weights, 1)
        highest = new_highest

    acc = acc * (value_scale / tl.where(total == 0.0, 1.0, total))[:, None]
    row = (part * num_queries + start + query).to(tl.int64) * num_heads + head
    tl.store(
        out + row[:, None] * HEAD_DIM + dims[None, :],
        acc.to(out.dtype.element_ty),
        mask=row_mask[:, None] & dim_mask[None, :],
    )
    tl.store(lse + row, highest + tl.log(total), mask=row_mask)


def triton_kernel(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    call: PagedCall,
    *,
    scale: float,
    kv_scales: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``paged_call.PagedKernel``. Shapes alone decide how it is launched."""
    num_queries, num_heads, head_dim = queries.shape
    num_sequences, num_kv_heads = len(call.lengths), keys.shape[2]
    per_key = num_heads // num_kv_heads
    tile_rows = max(16, triton.next_power_of_2(per_key)) if call.max_queries == 1 else 64
    tile_keys = 32 if queries.dtype == torch.float32 else 64
    num_tiles = num_queries // (tile_rows // per_key) + num_sequences
    num_parts = _num_parts(num_tiles * num_kv_heads, call.max_length, tile_keys)
    shape = (num_parts, num_queries, num_heads)
    out_dtype = queries.dtype if num_parts == 1 else torch.float32
    out = torch.empty((*shape, head_dim), dtype=out_dtype, device=queries.device)
    lse = torch.empty(shape, dtype=torch.float32, device=queries.device)
    _attend[(num_tiles, num_kv_heads, num_parts)](
        queries, keys, values, out, lse, call.starts, call.tables, call.lengths,
        lse if kv_scales is None else kv_scales,
        scale, num_sequences, num_queries, num_heads,
        queries.stride(0), queries.stride(1),
        keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2),
        call.tables.stride(0),
        HEADS_PER_KEY=per_key, HEAD_DIM=head_dim, PADDED_DIM=triton.next_power_of_2(head_dim),
        PAGE_SIZE=keys.shape[1], TILE_ROWS=tile_rows, TILE_KEYS=tile_keys,
        CAUSAL=call.causal, SCALED=kv_scales is not None, NUM_PARTS=num_parts,
    )  # fmt: skip
    if num_parts == 1:
        return out[0], lse[0]
    whole = lse.logsumexp(dim=0)
    shares = (lse - whole).exp().nan_to_num()  # a row that sees nothing has no shares
    return (out * shares[..., None]).sum(dim=0).to(queries.dtype), whole


def _num_parts(num_programs: int, max_length: int, tile_keys: int) -> int:
    """Into how many parts contexts are split: as many as fill the GPU, of a few tiles each."""
    wanted = min(WANTED_PROGRAMS // num_programs, max_length // (2 * tile_keys), MAX_PARTS)
    return 1 << max(0, wanted.bit_length() - 1)
