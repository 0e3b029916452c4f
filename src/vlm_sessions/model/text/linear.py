"""Matrix products of few rows with a checkpoint's weights, as they lie in memory.

A step that decodes multiplies a handful of rows with every weight: it should take as long as
reading the weights. On a CPU our kernels in C do so (``model/native``). Where they are not built:
torch's own ``linear`` does so with some types and numbers of rows and not with others; the same
product written otherwise reads the same memory once and nearly at full speed. Neither needs a
second, packed copy of the weights.

    rows     product[slice] = rows @ weight[slice].T     float32, few rows
    columns  product[slice] = weight[slice] @ rows.T     float32, more rows; bfloat16, one slice

A slice is so many of the output features, ``weight`` seen as ``[num_slices, slice, in_features]``.
What was measured, and where, is in docs/decisions/0021-kernels-behind-one-interface.md and
0031-kernels-in-c.md.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from vlm_sessions.model.native.library import MAX_ROWS as MAX_NATIVE_ROWS
from vlm_sessions.model.native.library import Library

MAX_ROWS = 64
"""With more rows arithmetic is the limit, not memory, and torch's own product is best."""


class Linear(Protocol):
    def __call__(self, rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        """``[num_rows, out_features]`` of ``[num_rows, in_features]``, contiguous; plus ``others``,
        which are like it."""
        ...


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, library: Library | None = None
) -> Linear:
    """The product that suits a weight ``[out_features, in_features]``, which is kept as it is."""
    if library is not None and library.multiplies(weight):
        return NativeLinear(weight, bias, library)
    if weight.device.type == "cpu" and weight.is_contiguous():
        if weight.dtype is torch.float32 and len(weight) % Float32Linear.SLICE == 0:
            return Float32Linear(weight, bias)
        if weight.dtype is torch.bfloat16:
            return BFloat16Linear(weight, bias)
    return PlainLinear(weight, bias)


class PlainLinear:
    """torch's own product: for every device, type and size."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        return _add(functional.linear(rows, self._weight, self._bias), others)


class NativeLinear:
    """By our kernels, where there are few rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, library: Library) -> None:
        self.weight = weight
        self.bias = bias
        self._library = library

    def __call__(self, rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        if rows.shape[0] > MAX_NATIVE_ROWS:
            return _add(functional.linear(rows, self.weight, self.bias), others)
        return self._library.linear(rows, self.weight, self.bias, others)


class Float32Linear:
    """For ``out_features`` that are a multiple of ``SLICE``."""

    SLICE = 32
    MAX_BY_ROWS = 14
    """With more rows, products by columns are faster."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias
        self._slices = weight.view(-1, self.SLICE, weight.shape[1])
        self._transposed = self._slices.transpose(1, 2)

    def __call__(self, rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        num_rows = rows.shape[0]
        if num_rows > MAX_ROWS:
            return _add(functional.linear(rows, self._weight, self._bias), others)
        if num_rows > self.MAX_BY_ROWS:
            # These products are fastest with a multiple of 16 columns.
            padded = functional.pad(rows, (0, 0, 0, -num_rows % 16))
            product = _by_columns(padded, self._slices)[:num_rows]
        else:
            repeated = rows.expand(len(self._slices), -1, -1)
            product = torch.bmm(repeated, self._transposed).transpose(0, 1).flatten(1)
        return _add(product, self._bias, others)


class BFloat16Linear:
    """By columns, all output features in one slice."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        if rows.shape[0] > MAX_ROWS:
            return _add(functional.linear(rows, self._weight, self._bias), others)
        product = _by_columns(rows, self._weight[None])
        return _add(product, self._bias, others)


def _add(product: torch.Tensor, *terms: torch.Tensor | None) -> torch.Tensor:
    for term in terms:
        if term is not None:
            product.add_(term)
    return product


def _by_columns(rows: torch.Tensor, slices: torch.Tensor) -> torch.Tensor:
    """``[num_rows, out_features]`` of ``[num_rows, in_features]`` and ``[num_slices, slice,
    in_features]``.

    A batched product even of one slice: the plain one takes another way for a single column, which
    is a third slower.
    """
    columns = rows.T.contiguous()
    product = torch.bmm(slices, columns.expand(len(slices), -1, -1))
    return product.flatten(0, 1).T.contiguous()
