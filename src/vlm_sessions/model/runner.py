"""The model runner: one plan in, one result out.

It knows tokens, blocks and digests. Turns, sessions and text are unknown here; which blocks and
features exist is decided by the scheduler, and only carried out here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vlm_sessions.config import Settings
from vlm_sessions.engine.types import Encoded, EngineInfo, Plan, Sampled, StepResult, TokenSpan
from vlm_sessions.model.checkpoint import Checkpoint, open_checkpoint
from vlm_sessions.model.encoder import Encoder
from vlm_sessions.model.host_cache import (
    FEATURE_MOST,
    FEATURE_SHARE,
    KV_MOST,
    KV_SHARE,
    HostKV,
    host_budget,
)
from vlm_sessions.model.kernels import choose_kernels
from vlm_sessions.model.kv_cache import KVCache
from vlm_sessions.model.largest_step import largest_step
from vlm_sessions.model.loader import LoadedModel, choose_device, choose_dtype, load_model
from vlm_sessions.model.lookahead import Lookahead
from vlm_sessions.model.memory import num_bytes, plan_memory
from vlm_sessions.model.sampler import Sampler
from vlm_sessions.model.threads import choose_num_threads
from vlm_sessions.model.tower import VisionTower
from vlm_sessions.model.transfer import to_device
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
    torch.set_num_threads(settings.threads or choose_num_threads())
    checkpoint = open_checkpoint(model, name=name, one_tile=settings.image_tiles == "one")
    device = choose_device(settings)
    loaded = load_model(checkpoint, device=device, dtype=choose_dtype(settings, device))
    return ModelRunner(settings, checkpoint, loaded, started=started)


class ModelRunner:
    """``engine.interface.Runner`` over a loaded model and the kernels chosen for it.

    Args:
        started: ``time.monotonic()`` when loading began, for ``info.load_seconds``.
    """

    def __init__(
        self, settings: Settings, checkpoint: Checkpoint, loaded: LoadedModel, *, started: float
    ) -> None:
        self._device = loaded.device
        kernels = choose_kernels(settings, loaded)
        self._text = kernels.text
        self._eos_ids = loaded.eos_ids
        tower = VisionTower(loaded.model, checkpoint, device=loaded.device, dtype=loaded.dtype)
        weights = num_bytes(loaded.model.parameters()) + kernels.num_added_bytes
        with torch.inference_mode():
            tower.check()
        self._features = FeatureStore()
        self._encoder = Encoder.beside_steps(tower.compute, loaded.device)
        self._sampler = Sampler(
            eos_ids=loaded.eos_ids, never=(checkpoint.image_token_id,), device=loaded.device
        )
        hidden_size = int(loaded.model.config.text_config.hidden_size)
        self._feature_bytes = hidden_size * loaded.dtype.itemsize
        sides = checkpoint.image_size, checkpoint.image_size
        plan = plan_memory(
            settings,
            kernels.kv_shape,
            device=loaded.device,
            weights=weights,
            max_context=checkpoint.max_context,
            image_tokens=checkpoint.num_image_tokens(*sides),
            largest_step=lambda: largest_step(settings, kernels, tower, checkpoint, self._device),
        )
        num_blocks = plan.num_blocks
        self._cache = KVCache(
            kernels.kv_shape,
            num_blocks=num_blocks + kernels.num_scratch_blocks,
            block_size=settings.block_size,
            device=loaded.device,
            layout=kernels.kv_layout,
            scales=kernels.kv_scales,
        )
        self._attention = kernels.make_attention(self._cache)
        self._lookahead = (
            Lookahead(self._attention, settings.block_size) if kernels.is_asynchronous else None
        )
        block_bytes = settings.block_size * kernels.kv_shape.bytes_per_token
        kv_budget = host_budget(settings.host_kv_mb, loaded.device, share=KV_SHARE, most=KV_MOST)
        num_host_blocks = kv_budget // block_bytes
        self._host_kv = HostKV(self._cache, num_host_blocks)
        self._info = EngineInfo(
            model=checkpoint.name,
            device=str(loaded.device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            num_blocks=num_blocks,
            block_size=settings.block_size,
            max_context=min(checkpoint.max_context, num_blocks * settings.block_size),
            kv_bytes_per_token=kernels.kv_shape.bytes_per_token,
            load_seconds=time.monotonic() - started,
            num_host_blocks=num_host_blocks,
            host_feature_bytes=host_budget(
                settings.host_feature_mb, loaded.device, share=FEATURE_SHARE, most=FEATURE_MOST
            ),
        )
        self.memory = plan.table.with_host(
            kv=num_host_blocks * block_bytes, features=self._info.host_feature_bytes
        )
        """What memory went where."""

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def feature_bytes_per_token(self) -> int:
        return self._feature_bytes

    def execute(self, plan: Plan) -> StepResult:
        """Do one step's work; see ``engine.interface.Runner``."""
        with torch.inference_mode():
            self._host_kv.join()  # what the last plan loaded
            self._features.offload(plan.offload)
            self._features.drop(plan.drop)
            self._features.forget(plan.forget)
            self._features.restore(plan.restore)
            self._encoder.start(plan.encode)
            self._host_kv.store(plan.store)
            for copy in plan.copies:
                self._cache.copy(copy.source, copy.target, copy.num_tokens)
            self._host_kv.load(plan.load)
            sampled: tuple[Sampled, ...] = ()
            if plan.spans:
                sampled = self._sample(plan.spans, self._forward(plan.spans))
            encoded = tuple(self._collect(wait=plan.wait))
            blocks_loaded, load_seconds = self._host_kv.take_loaded()
            return StepResult(sampled, encoded, blocks_loaded, load_seconds)

    def _collect(self, *, wait: bool) -> Iterator[Encoded]:
        """Keep the features that are done by now."""
        for image in self._encoder.collect(wait=wait):
            self._features.put(image.digest, image.features)
            yield Encoded(image.digest, image.seconds)

    def _forward(self, spans: Sequence[TokenSpan]) -> torch.Tensor:
        """Compute all spans in one row. Returns hidden states ``[num_tokens, hidden_size]``."""
        prepared = self._lookahead.take(spans) if self._lookahead else None
        if prepared is not None:
            return self._text.forward(self._text.embed(prepared.tokens), prepared.step)
        tokens = [token for span in spans for token in span.tokens]
        embeds = self._text.embed(to_device(tokens, torch.long, self._device))
        self._place_images(spans, embeds)
        return self._text.forward(embeds, self._attention.plan(spans))

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

    def _sample(self, spans: Sequence[TokenSpan], hidden: torch.Tensor) -> tuple[Sampled, ...]:
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
            return ()
        first, after = rows[0], rows[-1] + 1
        if after - first == len(rows):  # as in a step that only decodes: nothing is copied
            last = hidden[first:after]
        else:
            last = hidden[to_device(rows, torch.long, self._device)]
        tokens = self._sampler.choose_after(self._text, last, draws)
        if self._lookahead:
            self._lookahead.prepare(spans, tokens)
        return tuple(
            Sampled(turn_id, token, token in self._eos_ids)
            for turn_id, token in zip(
                turn_ids, tokens.tolist(), strict=True
            )  # waits for the device
        )
