"""All layers of a decoder as one call of our kernels.

A step of few rows is nine kernels a layer, each over in a fraction of a millisecond. Called one by
one from Python, with a new tensor for each result, what lies between them shows in every step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlm_sessions.model.attention.flat import FlatStep
from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.native.library import MAX_ROWS, DecoderStruct, Library
from vlm_sessions.model.text.linear import Linear, NativeLinear
from vlm_sessions.model.text.operations import NativeOperations, Operations, Rotation


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """What a layer multiplies with, and its norms' weights."""

    input_norm: torch.Tensor
    qkv: Linear
    head_norm: torch.Tensor | None
    """Of query and key heads, ``[num_heads, head_dim]``, if they have norms."""
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Heads:
    """Of a layer's attention."""

    num_queries: int
    num_keys: int
    dim: int


class NativeLayers:
    """Layers without head norms.

    Args:
        layers: of each its weights, as ``struct layer`` of decode.c has them.
        norm: weight of the last norm, ``[hidden_size]``.
        eps: of all norms.
    """

    def __init__(
        self,
        library: Library,
        layers: Sequence[Sequence[torch.Tensor | None]],
        norm: torch.Tensor,
        heads: Heads,
        *,
        intermediate_size: int,
        eps: float,
    ) -> None:
        self._library = library
        # The structure points to what these hold.
        self._weights = layers, norm
        self._pointers = torch.tensor(
            [[0 if weight is None else weight.data_ptr() for weight in layer] for layer in layers]
        )
        self._struct = DecoderStruct(
            len(layers),
            norm.shape[0],
            intermediate_size,
            heads.num_queries,
            heads.num_keys,
            heads.dim,
            eps,
            ctypes.c_void_p(norm.data_ptr()),
            ctypes.c_void_p(self._pointers.data_ptr()),
        )
        self._room = norm.new_empty(0)

    def forward(
        self, embeds: torch.Tensor, rotation: Rotation, step: AttentionStep
    ) -> torch.Tensor | None:
        """Hidden states ``[num_rows, hidden_size]`` after the last norm; ``None``: the step has too
        many rows, or was laid out otherwise."""
        if not isinstance(step, FlatStep) or embeds.shape[0] > MAX_ROWS:
            return None
        size = embeds.shape[0] * self._struct.room_a_row
        if len(self._room) < size:
            self._room = embeds.new_empty(size)
        return self._library.decode(
            self._struct,
            step.struct(self._struct.num_heads),
            embeds,
            (rotation.cos, rotation.sin),
            pool=step.cache.bits,
            room=self._room,
        )


def make_native_layers(
    operations: Operations,
    layers: Sequence[LayerWeights],
    norm: torch.Tensor,
    heads: Heads,
    *,
    intermediate_size: int,
    eps: float,
) -> NativeLayers | None:
    """``None`` where a part of them is not computed by our kernels."""
    if not isinstance(operations, NativeOperations):
        return None
    pointed = []
    for layer in layers:
        products = layer.qkv, layer.out, layer.gate_up, layer.down
        native = [product for product in products if isinstance(product, NativeLinear)]
        if len(native) < len(products) or layer.head_norm is not None:
            return None
        (qkv, out, gate_up, down) = ((product.weight, product.bias) for product in native)
        pointed.append((layer.input_norm, *qkv, *out, layer.mlp_norm, *gate_up, *down))
    return NativeLayers(
        operations.library, pointed, norm, heads, intermediate_size=intermediate_size, eps=eps
    )
