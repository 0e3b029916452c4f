"""The compiled kernels that this processor can run, as functions of tensors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from vlm_sessions.model.native.build import kind, usable

logger = logging.getLogger(__name__)

MAX_ROWS = 96
"""Of ``Library.linear``; with more, torch's own product is as fast."""
MAX_HEAD_DIM = 256
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
STEPS_8_BITS = 16256
"""Of ``Library.linear_8_bits``, which may multiply rows as integers of two digits."""
_ALIGNMENT = 32
"""Numbers: rows and heads come in multiples of it, on the widest vectors."""
_NUM_OUT = 16
"""Output features come in multiples of it."""

_Types = Sequence[type[ctypes.c_void_p | ctypes.c_long | ctypes.c_float | ctypes.c_int]]
_P, _L, _F, _I = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
_SIGNATURES: dict[str, _Types] = {
    "linear": (_P, _P, _P, _P, _P, _L, _L, _L, _I),
    "attend": (_P, _P, _P, _P, _P, _L, _L, _L, _L, _L, _L, _F, _I),
    "attend_step": (_P, _P, _P, _P, _P, _L),
    "norm": (_P, _P, _P, _L, _L, _F, _I),
    "rotate": (_P, _P, _P, _L, _L, _L, _L, _I),
    "gate": (_P, _P, _L, _L, _I),
    "quick_gelu": (_P, _L, _I),
    "decode": (_P, _P, _P, _P, _P, _P, _P, _P, _L, _L, _I),
}


class StepStruct(ctypes.Structure):
    """``struct step`` of attend.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_rows", "num_kv_heads", "queries_a_head", "dim")),
        *((name, ctypes.c_int64) for name in ("num_slots", "num_families", "num_threads")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("slots", "order", "families", "parts")),
    )


class DecoderStruct(ctypes.Structure):
    """``struct decoder`` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_layers", "hidden_size", "intermediate_size")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "dim")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("norm", "layers")),
    )

    @property
    def room_a_row(self) -> int:
        """Numbers that ``Library.decode`` wants to work with."""
        heads = 2 * (self.num_heads + self.num_kv_heads) * self.dim
        return int(3 * self.hidden_size + heads + 3 * self.intermediate_size)


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
        self.name = kind(path)
        self._functions: dict[tuple[str, torch.dtype], Callable[..., int]] = {
            ("linear", torch.int8): library.linear_s8
        }
        library.linear_s8.argtypes = _SIGNATURES["linear"]
        self._screen = library.screen
        self._screen.argtypes, self._screen.restype = (_P,) * 5 + (_L,) * 4, _L
        for name, types in _SIGNATURES.items():
            for dtype, suffix in DTYPES.items():
                function = library[f"{name}_{suffix}"]
                function.argtypes = types
                self._functions[name, dtype] = function

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

    def linear(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        others: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``rows @ weight.T + bias + others``, ``[num_rows, num_out]``, all of the weight's dtype.

        Args:
            rows: ``[num_rows, num_in]``, at most ``MAX_ROWS``.
            others: contiguous, like the result.

        Raises:
            MemoryError: for the copy of the rows that it works with.
        """
        return self._linear(rows, weight, bias, others)

    def linear_8_bits(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``rows @ weight.T`` of float32 rows, as above, and an int8 weight: float32.

        Each number of a row may be rounded to half of the row's largest, divided by
        ``STEPS_8_BITS``.
        """
        return self._linear(rows, weight, None, None)

    def _linear(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        others: torch.Tensor | None,
    ) -> torch.Tensor:
        rows = rows.contiguous()
        num_rows, num_in = rows.shape
        num_out = weight.shape[0]  # a tensor's len() is Python code of its own, and slow
        out = rows.new_empty(num_rows, num_out)
        self._call(
            "linear",
            weight.dtype,
            weight.data_ptr(),
            rows.data_ptr(),
            bias.data_ptr() if bias is not None else None,
            others.data_ptr() if others is not None else None,
            out.data_ptr(),
            num_rows,
            num_in,
            num_out,
            torch.get_num_threads(),
        )
        return out

    def screen(
        self,
        rows: torch.Tensor,
        scores: torch.Tensor,
        scales: torch.Tensor,
        errors: torch.Tensor,
        *,
        most: int,
    ) -> torch.Tensor | None:
        """Which columns may hold the largest number of a row, ascending, int64.

        Args:
            rows: ``[num_rows, size]`` float32, at most 64.
            scores: ``[num_rows, num_columns]`` float32. Multiplied by ``scales`` they are right but
                for the row's length times ``errors``, at most; minus infinity is that.
            scales: ``[num_columns]`` float32, as ``errors``.

        Returns:
            ``None``: there are more than ``most``, or a row is not all numbers or next to nothing.
        """
        found = torch.empty(most, dtype=torch.int64)
        pointers = (tensor.data_ptr() for tensor in (rows, scores, scales, errors, found))
        count: int = self._screen(*pointers, *rows.shape, scores.shape[1], most)
        return None if count < 0 else found[:count]

    def norms(self, dtype: torch.dtype, size: int) -> bool:
        """Whether ``norm``, ``gate`` and ``quick_gelu_`` can take rows of this kind."""
        return dtype in DTYPES and size % _ALIGNMENT == 0

    def norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """The root mean square norm of contiguous rows ``[num_rows, size]``."""
        out = torch.empty_like(rows)
        num_rows, size = rows.shape
        pointers = rows.data_ptr(), weight.data_ptr(), out.data_ptr()
        self._call("norm", rows.dtype, *pointers, num_rows, size, eps, torch.get_num_threads())
        return out

    def rotate_(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Turn ``[num_rows, num_heads, head_dim]``: ``x * cos + (x with halves swapped) * sin``.

        Args:
            heads: each row's in one piece.
            cos: ``[num_rows, head_dim]`` float32, contiguous.
            sin: likewise, its first half negated.
        """
        num_threads = torch.get_num_threads()
        pointers = heads.data_ptr(), cos.data_ptr(), sin.data_ptr()
        self._call("rotate", heads.dtype, *pointers, *heads.shape, heads.stride(0), num_threads)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of contiguous rows ``[num_rows, 2 * size]``: ``[num_rows, size]``."""
        num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(num_rows, size)
        pointers = gate_up.data_ptr(), out.data_ptr()
        self._call("gate", gate_up.dtype, *pointers, num_rows, size, torch.get_num_threads())
        return out

    def quick_gelu_(self, numbers: torch.Tensor) -> None:
        """``x * sigmoid(1.702 * x)`` of contiguous numbers that ``norms`` has for a size."""
        pointer, count = numbers.data_ptr(), numbers.numel()
        self._call("quick_gelu", numbers.dtype, pointer, count, torch.get_num_threads())

    def attends(self, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether ``attend`` can take keys and values of this kind."""
        return dtype in DTYPES and head_dim % _ALIGNMENT == 0 and head_dim <= MAX_HEAD_DIM

    def attends_many(self, dtype: torch.dtype) -> bool:
        """Whether it does so quickly with many queries over the same keys."""
        return dtype is torch.float32 or self.name == "amx"

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
        self._call(
            "attend",
            queries.dtype,
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

    def attend_step(
        self,
        step: StepStruct,
        queries: torch.Tensor,
        keys_values: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """One layer of a step: see ``attention/flat.py``.

        Args:
            queries: ``[num_rows, num_heads, head_dim]``.
            keys_values: ``[num_rows, 2 * num_kv_heads, head_dim]``, rows as far from each other as
                the queries'.
            slots: the layer's ``[2, num_kv_heads, num_slots, head_dim]``, contiguous.
        """
        out = queries.new_empty(queries.shape)
        self._call(
            "attend_step",
            queries.dtype,
            ctypes.addressof(step),
            queries.data_ptr(),
            keys_values.data_ptr(),
            slots.data_ptr(),
            out.data_ptr(),
            queries.stride(0),
        )
        return out

    def decode(
        self,
        decoder: DecoderStruct,
        step: StepStruct,
        embeds: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        *,
        pool: torch.Tensor,
        room: torch.Tensor,
    ) -> torch.Tensor:
        """All layers of a step, and the last norm: what ``norm``, ``linear``, ``rotate_``,
        ``attend_step`` and ``gate`` give one after another.

        Args:
            embeds: ``[num_rows, hidden_size]``, contiguous, at most ``MAX_ROWS``.
            rotation: the cosine and sine that ``rotate_`` takes.
            pool: ``[num_layers, 2, num_kv_heads, ...]``, contiguous.
            room: of ``decoder.room_a_row`` numbers for each row, and of any content.

        Raises:
            MemoryError: as ``linear`` and ``attend_step`` do.
        """
        out = torch.empty_like(embeds)
        self._call(
            "decode",
            embeds.dtype,
            ctypes.addressof(decoder),
            ctypes.addressof(step),
            embeds.data_ptr(),
            *(numbers.data_ptr() for numbers in rotation),
            pool.data_ptr(),
            room.data_ptr(),
            out.data_ptr(),
            embeds.shape[0],
            pool.stride(0),
            torch.get_num_threads(),
        )
        return out

    def _call(self, name: str, dtype: torch.dtype, *arguments: object) -> None:
        if self._functions[name, dtype](*arguments):
            raise MemoryError(f"There is no memory for what {name} works with.")


@cache
def load_library() -> Library | None:
    """The best one that is built and that this processor runs; ``None``: there is none."""
    for path in usable():
        try:
            return Library(path)
        except OSError as exc:  # built elsewhere, or forbidden here: the next one may do
            logger.warning("The %s kernels cannot be used: %s.", kind(path), exc)
    return None
