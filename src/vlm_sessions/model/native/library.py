"""The compiled kernels that this processor can run, as functions of tensors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from vlm_sessions.model.native.build import usable

logger = logging.getLogger(__name__)

MAX_ROWS = 64
"""Of ``Library.linear``."""
MAX_HEAD_DIM = 256
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_ALIGNMENT = 32
"""Numbers: rows and heads come in multiples of it, on the widest vectors."""
_NUM_OUT = 16
"""Output features come in multiples of it."""

_Types = Sequence[type[ctypes.c_void_p | ctypes.c_long | ctypes.c_float | ctypes.c_int]]
_LINEAR: _Types = (*[ctypes.c_void_p] * 3, *[ctypes.c_long] * 3, ctypes.c_int)
_ATTEND: _Types = (*[ctypes.c_void_p] * 5, *[ctypes.c_long] * 6, ctypes.c_float, ctypes.c_int)


class Library:
    """One compiled library.

    Args:
        path: of the shared object.

    Raises:
        OSError: it cannot be loaded, or the system does not let us use what it is made for.
    """

    def __init__(self, path: Path) -> None:
        # It shares torch's OpenMP threads, since both name the same library, and torch's is loaded.
        library = ctypes.CDLL(str(path))
        if library.prepare() != 0:
            raise OSError(f"the system does not allow what {path.name} needs")
        self.name = path.stem
        self._linear = {dtype: library[f"linear_{kind}"] for dtype, kind in DTYPES.items()}
        self._attend = {dtype: library[f"attend_{kind}"] for dtype, kind in DTYPES.items()}
        for function in self._linear.values():
            function.argtypes = _LINEAR
        for function in self._attend.values():
            function.argtypes = _ATTEND

    def multiplies(self, weight: torch.Tensor) -> bool:
        """Whether ``linear`` can take a weight ``[num_out, num_in]``."""
        num_out, num_in = weight.shape
        return (
            weight.device.type == "cpu"
            and weight.dtype in DTYPES
            and weight.is_contiguous()
            and num_in % _ALIGNMENT == 0
            and num_out % _NUM_OUT == 0
        )

    def linear(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``[num_rows, num_out]`` of rows ``[num_rows, num_in]``, at most ``MAX_ROWS``, of the
        weight's dtype.

        Raises:
            MemoryError: for the copy of the rows that it works with.
        """
        rows = rows.contiguous()
        num_rows, num_in = rows.shape
        out = rows.new_empty(num_rows, len(weight))
        failed = self._linear[weight.dtype](
            weight.data_ptr(),
            rows.data_ptr(),
            out.data_ptr(),
            num_rows,
            num_in,
            len(weight),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("There is no memory for the rows of a matrix product.")
        return out

    def attends(self, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether ``attend`` can take keys and values of this kind."""
        return dtype in DTYPES and head_dim % _ALIGNMENT == 0 and head_dim <= MAX_HEAD_DIM

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries ``[num_kv_heads, num_rows, head_dim]`` over keys and values ``[num_kv_heads,
        length, head_dim]``; these are read where they lie if each head's lie in one piece.

        Returns:
            Attended values like ``queries``, and the log of the sum of exponentials,
            ``[num_kv_heads, num_rows]`` float32.
        """
        num_heads, num_rows, head_dim = queries.shape
        if queries.stride()[1:] != (head_dim, 1):
            queries = queries.contiguous()
        if keys.stride()[1:] != (head_dim, 1) or keys.stride() != values.stride():
            keys, values = keys.contiguous(), values.contiguous()
        out = queries.new_empty(num_heads, num_rows, head_dim)
        sums = torch.empty(num_heads, num_rows)
        self._attend[queries.dtype](
            queries.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            sums.data_ptr(),
            num_heads,
            num_rows,
            keys.shape[1],
            head_dim,
            queries.stride(0),
            keys.stride(0),
            scale,
            torch.get_num_threads(),
        )
        return out, sums


@cache
def load_library() -> Library | None:
    """The best one that is built and that this processor runs; ``None``: there is none."""
    for path in usable():
        try:
            return Library(path)
        except OSError as exc:  # built elsewhere, or forbidden here: the next one may do
            logger.warning("The %s kernels cannot be used: %s.", path.stem, exc)
    return None
