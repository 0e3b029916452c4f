"""A decoder of our own over a checkpoint's weights: what decoding spends on anything but reading
them is kept small.

    norm ─ qkv ─ (head norms) ─ rotary ─ attend ─ o ─ + ─ norm ─ gate, up ─ silu · ─ down ─ +

One product for queries, keys and values, one for gate and up; the rotation is in place and computed
once for all layers; nothing is masked, transposed or laid out in a layer. The weights are not
copied: the modules that they came from keep views of the joined ones.

Covers the text models that ``supported.TEXT_MODELS`` admits: llama, mistral, qwen2 (biases of
queries, keys and values) and qwen3 (norms of query and key heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.native.library import Library
from vlm_sessions.model.text.interface import Bar
from vlm_sessions.model.text.linear import Linear, make_linear
from vlm_sessions.model.text.native import Heads, LayerWeights, make_native_layers
from vlm_sessions.model.text.operations import Operations, Rotation, choose_operations
from vlm_sessions.model.text.screen import make_screen

LAYER_PARAMETERS = frozenset(
    {
        *(f"self_attn.{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")),
        *(
            f"mlp.{name}_proj.{kind}"
            for name in ("gate", "up", "down")
            for kind in ("weight", "bias")
        ),
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
)


def why_not_fused(model: Any) -> str | None:
    """What about a model's text half is not understood here; ``None``: all of it is."""
    text = model.config.text_config
    language_model = model.model.language_model
    if text.hidden_act != "silu":
        return f"its activation is {text.hidden_act}"
    if 2 * len(language_model.rotary_emb.inv_freq) != head_dim(text):
        return "its rotary positions turn only a part of each head"
    names = {name for layer in language_model.layers for name, _ in layer.named_parameters()}
    unknown = sorted(names - LAYER_PARAMETERS)
    return f"its layers have {unknown[0]}" if unknown else None


class FusedTextModel:
    """``interface.TextModel`` on any device.

    Args:
        model: a model of transformers with a text half for which ``why_not_fused`` has no reason.
        library: kernels in C for products of few rows, if there are any.
    """

    def __init__(self, model: Any, library: Library | None = None) -> None:
        text = model.config.text_config
        language_model = model.model.language_model
        heads = Heads(
            text.num_attention_heads,
            text.num_key_value_heads,
            head_dim(text),
        )
        self._embedding: torch.Tensor = model.get_input_embeddings().weight
        self._operations = choose_operations(
            library,
            self._embedding.dtype,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
        )
        self._rotary_emb = language_model.rotary_emb
        self._layers = [
            _Layer(
                index,
                module,
                heads,
                eps=text.rms_norm_eps,
                library=library,
                operations=self._operations,
            )
            for index, module in enumerate(language_model.layers)
        ]
        self._norm: torch.Tensor = language_model.norm.weight
        self._eps = text.rms_norm_eps
        self._native_layers = make_native_layers(
            self._operations,
            [layer.weights for layer in self._layers],
            self._norm,
            heads,
            intermediate_size=text.intermediate_size,
            eps=self._eps,
        )
        head = model.get_output_embeddings()
        self._lm_head = make_linear(head.weight, head.bias, library)
        self._screen = make_screen(head.weight, head.bias, library)

    @property
    def num_added_bytes(self) -> int:
        """Beside the checkpoint's weights."""
        return 0 if self._screen is None else self._screen.num_bytes

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.embedding(tokens, self._embedding)

    def forward(self, embeds: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        rotation = self._rotate(embeds, step.positions)
        if self._native_layers is not None:
            computed = self._native_layers.forward(embeds, rotation, step)
            if computed is not None:
                return computed
        hidden = embeds
        for layer in self._layers:
            hidden = layer(hidden, rotation, step)
        return self._operations.norm(hidden, self._norm, self._eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._lm_head(hidden)

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor:
        if self._screen is not None:
            tokens = self._screen.greedy(hidden, bar)
            if tokens is not None:
                return tokens
        logits = self.logits(hidden)
        bar(logits)
        return logits.argmax(dim=-1)

    def _rotate(self, embeds: torch.Tensor, positions: torch.Tensor) -> Rotation:
        """By transformers' own module, so that every scaling of positions is as it should be."""
        cos, sin = self._rotary_emb(embeds, positions[None])
        half = cos.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        return self._operations.rotation(cos[0], sin[0])


class _Layer:
    """One layer's weights, joined where they are multiplied with the same rows."""

    def __init__(
        self,
        index: int,
        module: Any,
        heads: Heads,
        *,
        eps: float,
        library: Library | None,
        operations: Operations,
    ) -> None:
        attention, mlp = module.self_attn, module.mlp
        self._index = index
        self._heads = heads
        self._eps = eps
        self._operations = operations
        self.weights = LayerWeights(
            input_norm=module.input_layernorm.weight,
            qkv=_join([attention.q_proj, attention.k_proj, attention.v_proj], library),
            head_norm=_head_norm(attention, heads),
            out=make_linear(attention.o_proj.weight, attention.o_proj.bias, library),
            mlp_norm=module.post_attention_layernorm.weight,
            gate_up=_join([mlp.gate_proj, mlp.up_proj], library),
            down=make_linear(mlp.down_proj.weight, mlp.down_proj.bias, library),
        )

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, step: AttentionStep
    ) -> torch.Tensor:
        operations, weights = self._operations, self.weights
        attended = self._attend(
            operations.norm(hidden, weights.input_norm, self._eps), rotation, step
        )
        hidden = weights.out(attended, hidden)
        gate_up = weights.gate_up(operations.norm(hidden, weights.mlp_norm, self._eps))
        return weights.down(operations.gate(gate_up), hidden)

    def _attend(
        self, normed: torch.Tensor, rotation: Rotation, step: AttentionStep
    ) -> torch.Tensor:
        """``[num_tokens, num_heads * head_dim]``."""
        num_queries = self._heads.num_queries
        heads = self.weights.qkv(normed).view(normed.shape[0], -1, self._heads.dim)
        turned = heads[:, : num_queries + self._heads.num_keys]
        head_norm = self.weights.head_norm
        if head_norm is not None:
            normed_heads = functional.rms_norm(turned, turned.shape[-1:], None, self._eps)
            torch.mul(normed_heads, head_norm, out=turned)
        self._operations.rotate_(turned, rotation)
        return step.attend(self._index, heads[:, :num_queries], heads[:, num_queries:]).flatten(1)


def _head_norm(attention: Any, heads: Heads) -> torch.Tensor | None:
    """Weights of the norms of query and key heads, ``[num_heads, head_dim]``, if there are any."""
    if not hasattr(attention, "q_norm"):
        return None
    return torch.cat(
        (
            attention.q_norm.weight.expand(heads.num_queries, -1),
            attention.k_norm.weight.expand(heads.num_keys, -1),
        )
    )


def _join(modules: Sequence[Any], library: Library | None) -> Linear:
    """One product instead of several. The modules keep views of the joined weights."""
    weight = torch.cat([module.weight.detach() for module in modules])
    bias = None
    if modules[0].bias is not None:
        bias = torch.cat([module.bias.detach() for module in modules])
    first = 0
    for module in modules:
        end = first + module.weight.shape[0]
        module.weight = torch.nn.Parameter(weight[first:end], requires_grad=False)
        first = end
    return make_linear(weight, bias, library)


def head_dim(text: Any) -> int:
    """Of a text model's configuration, which may leave it to follow from the others."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
