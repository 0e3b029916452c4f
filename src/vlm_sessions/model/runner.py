"""The model runner: one plan in, one result out.

It knows tokens, blocks and digests. Turns, sessions and text are unknown here; which blocks and
features exist is decided by the scheduler, and only carried out here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from vlm_sessions.config import Settings
from vlm_sessions.engine.types import EngineInfo, PixelImage, Plan, Sampled, StepResult, TokenSpan
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.attention import plan_attention
from vlm_sessions.model.checkpoint import Checkpoint, open_checkpoint
from vlm_sessions.model.kv_cache import KVCache, KVShape, count_blocks
from vlm_sessions.model.loader import LoadedModel, choose_device, choose_dtype, load_model
from vlm_sessions.model.sampler import Sampler
from vlm_sessions.model.vision import FeatureStore


def make_runner(settings: Settings, model: str | Path, *, name: str | None = None) -> ModelRunner:
    """Load a model and its caches, as the settings say. Takes seconds to minutes.

    Args:
        model: a checkpoint directory or a hub id.
        name: what ``info.model`` calls it; by default the hub id or the directory's name.

    Raises:
        ConfigError: the model cannot be served, or does not fit.
    """
    started = time.monotonic()
    torch.set_num_threads(settings.threads or max(1, len(os.sched_getaffinity(0)) // 2))
    checkpoint = open_checkpoint(model, name=name)
    device = choose_device(settings)
    loaded = load_model(checkpoint, device=device, dtype=choose_dtype(settings, device))
    _check_vision(checkpoint, loaded)
    return ModelRunner(settings, checkpoint, loaded, started=started)


def _check_vision(checkpoint: Checkpoint, loaded: LoadedModel) -> None:
    """See that an image has as many features as placeholders, now and not in a client's turn."""
    side = checkpoint.image_size
    black = PixelImage("probe", (3, side, side), bytes(3 * side * side * 4))
    store = FeatureStore(loaded.model, device=loaded.device, dtype=loaded.dtype)
    with torch.inference_mode():
        store.encode([black])
    num_features = store.num_rows("probe")
    if num_features != checkpoint.num_image_tokens:
        raise ConfigError(
            f"{checkpoint.path} gives an image {num_features} features, where its config.json "
            f"promises {checkpoint.num_image_tokens}."
        )


class ModelRunner:
    """``engine.interface.Runner`` over transformers' model classes.

    Args:
        started: ``time.monotonic()`` when loading began, for ``info.load_seconds``.
    """

    def __init__(
        self, settings: Settings, checkpoint: Checkpoint, loaded: LoadedModel, *, started: float
    ) -> None:
        self._device = loaded.device
        self._language_model = loaded.model.model.language_model
        self._embed = loaded.model.get_input_embeddings()
        self._lm_head = loaded.model.get_output_embeddings()
        self._eos_ids = loaded.eos_ids
        self._features = FeatureStore(loaded.model, device=loaded.device, dtype=loaded.dtype)
        self._sampler = Sampler(
            eos_ids=loaded.eos_ids, never=(checkpoint.image_token_id,), device=loaded.device
        )
        text = loaded.model.config.text_config
        self._feature_bytes = int(text.hidden_size) * loaded.dtype.itemsize
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        shape = KVShape(text.num_hidden_layers, text.num_key_value_heads, head_dim, loaded.dtype)
        num_blocks = count_blocks(
            shape,
            block_size=settings.block_size,
            budget_mb=settings.kv_cache_mb,
            device=loaded.device,
            max_context=checkpoint.max_context,
        )
        self._cache = KVCache(
            shape, num_blocks=num_blocks, block_size=settings.block_size, device=loaded.device
        )
        self._info = EngineInfo(
            model=checkpoint.name,
            device=str(loaded.device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            num_blocks=num_blocks,
            block_size=settings.block_size,
            max_context=min(checkpoint.max_context, num_blocks * settings.block_size),
            kv_bytes_per_token=shape.bytes_per_token,
            load_seconds=time.monotonic() - started,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def feature_bytes_per_token(self) -> int:
        return self._feature_bytes

    def execute(self, plan: Plan) -> StepResult:
        """Do one step's work; see ``engine.interface.Runner``."""
        with torch.inference_mode():
            self._features.drop(plan.drop)
            self._features.encode(plan.encode)
            for copy in plan.copies:
                self._cache.copy(copy.source, copy.target, copy.num_tokens)
            if not plan.spans:
                return StepResult()
            return self._sample(plan.spans, self._forward(plan.spans))

    def _forward(self, spans: Sequence[TokenSpan]) -> torch.Tensor:
        """Compute all spans in one row. Returns hidden states ``[num_tokens, hidden_size]``."""
        tokens = [token for span in spans for token in span.tokens]
        positions = [p for span in spans for p in range(span.start, span.start + len(span.tokens))]
        embeds = self._embed(torch.tensor(tokens, device=self._device))
        self._place_images(spans, embeds)
        paged = plan_attention(spans, self._cache, self._device)
        if len(paged.begun):
            self._cache.clear(paged.begun)
        output = self._language_model(
            inputs_embeds=embeds[None],
            position_ids=torch.tensor(positions, device=self._device)[None],
            use_cache=False,
            paged=paged,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _place_images(self, spans: Sequence[TokenSpan], embeds: torch.Tensor) -> None:
        """Put features where placeholders stand, in place. ``embeds``: ``[num_tokens, hidden]``."""
        first_row = 0
        for span in spans:
            for image in span.images:
                row = first_row + image.position
                embeds[row : row + image.length] = self._features.rows(
                    image.digest, image.offset, image.length
                )
            first_row += len(span.tokens)

    def _sample(self, spans: Sequence[TokenSpan], hidden: torch.Tensor) -> StepResult:
        """Sample after the last token of every span that draws."""
        turn_ids, rows, draws = [], [], []
        end = 0
        for span in spans:
            end += len(span.tokens)
            if span.draw is not None:
                turn_ids.append(span.turn_id)
                rows.append(end - 1)
                draws.append(span.draw)
        if not rows:
            return StepResult()
        logits = self._lm_head(hidden[torch.tensor(rows, device=self._device)])
        tokens = self._sampler.sample(logits, draws)
        return StepResult(
            tuple(
                Sampled(turn_id, token, token in self._eos_ids)
                for turn_id, token in zip(turn_ids, tokens, strict=True)
            )
        )
