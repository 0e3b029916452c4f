"""transformers' own model code: correct for every checkpoint it loads, and what others must equal.

The tokens of all conversations of a step stand in one row of a batch of one. The language model's
layers do what they always do; only the attention function, registered here under ``NAME`` with
transformers' ``AttentionInterface``, knows that the row is made of spans, and hands it on to the
step. The step reaches it as the keyword ``paged``, which transformers passes from the model's
``forward`` down to it. There is no global state.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from vlm_sessions.model.attention.interface import AttentionStep
from vlm_sessions.model.text.interface import Bar

NAME = "vlm_sessions_paged"


class ReferenceTextModel:
    """``interface.TextModel`` over the text half of a model of transformers.

    Args:
        model: a model with a language model inside, such as ``LlavaForConditionalGeneration``. Its
            text half attends through us from now on.
    """

    def __init__(self, model: Any) -> None:
        AttentionInterface.register(NAME, _paged_attention)
        model.set_attn_implementation({"text_config": NAME})
        self._language_model = model.model.language_model
        self._embed = model.get_input_embeddings()
        self._lm_head = model.get_output_embeddings()

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self._embed(tokens)
        return embeds

    def forward(self, embeds: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        output = self._language_model(
            inputs_embeds=embeds[None],
            position_ids=step.positions[None],
            use_cache=False,
            paged=step,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._lm_head(hidden)
        return logits

    def greedy(self, hidden: torch.Tensor, bar: Bar) -> torch.Tensor:
        logits = self.logits(hidden)
        bar(logits)
        return logits.argmax(dim=-1)


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paged: AttentionStep,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The function that transformers' attention layers call.

    Args:
        query: ``[1, num_heads, num_tokens, head_dim]``, positions already rotated in.
        key, value: ``[1, num_kv_heads, num_tokens, head_dim]``.
        attention_mask: always ``None``; what is visible follows from ``paged``.

    Returns:
        ``[1, num_tokens, num_heads, head_dim]``, and no attention weights.
    """
    layer = module.layer_idx
    assert isinstance(layer, int)
    keys_values = torch.cat([key[0], value[0]]).transpose(0, 1)
    return paged.attend(layer, query[0].transpose(0, 1), keys_values)[None], None
