"""From pixels to features: the vision tower, the projector and, for tiles, transformers' packing.

Stateless: what becomes of features is ``vision``'s business. What an image gives depends on that
image alone, never on which others it is computed with, or how many a conversation has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vlm_sessions.engine.types import PixelImage
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.checkpoint import Checkpoint

MAX_BATCH = 8
"""Tiles that go through the tower at once. With the features of one image, which may have more, it
bounds the memory that this needs."""


class VisionTower:
    """Computes the features of images. May be used from any thread.

    Takes the model over: layers behind the one that features are read from are dropped.

    Args:
        model: a model of one of ``checkpoint.ARCHITECTURES``, from transformers.
    """

    def __init__(
        self, model: Any, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model = model.model
        self._config = model.config
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._layers = _absolute(self._config)
        _keep_layers(self._model.vision_tower, max(self._layers), self._config.vision_config)

    def compute(self, images: Sequence[PixelImage]) -> list[torch.Tensor]:
        """Features of each image, ``[num_image_tokens, hidden_size]``, each with memory of its own.

        To be called in ``torch.inference_mode()``.

        Raises:
            RuntimeError: an image's features are not as many as its placeholders.
        """
        return [rows for group in _groups(images) for rows in self._compute_group(group)]

    def compute_largest(self) -> None:
        """Compute as much as ``compute`` ever has in memory at once, of blank pictures."""
        side, tiling = self._checkpoint.image_size, self._checkpoint.tiling
        self.compute_tiles(torch.zeros(MAX_BATCH, 3, side, side))
        if tiling is not None:
            height, width = max(tiling.resolutions, key=math.prod)
            shape = (tiling.num_tiles(width, height), 3, side, side)
            self.compute([PixelImage("blank", shape, bytes(4 * math.prod(shape)), (height, width))])

    def _compute_group(self, images: Sequence[PixelImage]) -> list[torch.Tensor]:
        cut = [_tiles_of(image) for image in images]
        tiles = [tile for one in cut for tile in one]
        batches = [
            self.compute_tiles(torch.from_numpy(np.stack(tiles[first : first + MAX_BATCH])))
            for first in range(0, len(tiles), MAX_BATCH)
        ]
        features = torch.split(torch.cat(batches), [len(one) for one in cut])
        packed = self._pack(features, [image.size for image in images])
        for image, rows in zip(images, packed, strict=True):
            if len(rows) != (num_tokens := self._num_tokens(image)):
                raise RuntimeError(
                    f"image {image.digest[:12]} has {len(rows)} features, its placeholders are "
                    f"{num_tokens}"
                )
        # A copy of its own, so that dropping one image frees its memory, not a batch's.
        return [rows.to(self._dtype).clone() for rows in packed]

    def check(self) -> None:
        """See that images have as many features as placeholders, now and not in a client's turn.

        One square goes through the tower; what becomes of several is then tried without it, for
        pictures whose sides stand to each other in all the ways that the tiles know, and between.

        Raises:
            ConfigError: they have not.
        """
        side, promised = self._checkpoint.image_size, self._checkpoint.num_tile_tokens
        num_features = self.compute_tiles(torch.zeros(1, 3, side, side)).shape[1]
        if num_features != promised:
            raise ConfigError(
                f"{self._checkpoint.path} gives an image {num_features} features, where its "
                f"config.json promises {promised}."
            )
        if (tiling := self._checkpoint.tiling) is None:
            return
        for height, width in probe_sizes(tiling.resolutions):
            num_tiles = tiling.num_tiles(width, height)
            blank = torch.zeros(num_tiles, promised, 1, device=self._device)
            (rows,) = self._pack([blank], [(height, width)], newline=blank[0, 0])
            if len(rows) != tiling.num_tokens(width, height):
                raise ConfigError(
                    f"{self._checkpoint.path} gives an image of {width} × {height} pixels "
                    f"{len(rows)} features, where {tiling.num_tokens(width, height)} are expected."
                )

    def compute_tiles(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[num_tiles, 3, side, side]`` -> ``[num_tiles, num_tile_tokens, hidden_size]``.

        What the models' ``get_image_features`` do before they pack, of which not all let the tiles
        of an image go through in several batches.
        """
        output = self._model.vision_tower(
            pixels.to(self._device, self._dtype),
            output_hidden_states=self._layers,  # all together are many times larger, and of no use
            return_dict=True,
        )
        states = torch.cat([output.hidden_states[layer] for layer in self._layers], dim=-1)
        if self._config.vision_feature_select_strategy == "default":
            states = states[:, 1:]
        features: torch.Tensor = self._model.multi_modal_projector(states)
        return features

    def _pack(
        self,
        features: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int] | None],
        *,
        newline: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Put each image's tiles ``[num_tiles, num_tile_tokens, hidden_size]`` together.

        Args:
            sizes: height and width of each picture in pixels; ``None`` where there are no tiles.
            newline: in place of the learned one, ``[hidden_size]``.
        """
        if self._checkpoint.tiling is None:
            return [tiles[0] for tiles in features]
        config = self._config
        newline = self._model.image_newline if newline is None else newline
        options: dict[str, Any] = (
            {"vision_aspect_ratio": config.vision_aspect_ratio}
            if self._checkpoint.tiling.max_pooled_tiles is not None
            else {"vision_feature_select_strategy": config.vision_feature_select_strategy}
        )
        packed, _ = self._model.pack_image_features(
            list(features), list(sizes), image_newline=newline, **options
        )
        return list(packed)

    def _num_tokens(self, image: PixelImage) -> int:
        if image.size is None:
            return self._checkpoint.num_tile_tokens
        height, width = image.size
        return self._checkpoint.num_image_tokens(width, height)


def _absolute(config: Any) -> list[int]:
    """The hidden states that features are made of; 0 is what goes into the first layer."""
    selected = config.vision_feature_layer
    layers = [selected] if isinstance(selected, int) else list(selected)
    return [layer % (config.vision_config.num_hidden_layers + 1) for layer in layers]


def _keep_layers(tower: torch.nn.Module, count: int, config: Any) -> None:
    """Drop all layers of a vision tower but the first ``count``."""
    for module in tower.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == config.num_hidden_layers:
                setattr(module, name, child[:count])
                return


def probe_sizes(resolutions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Heights and widths to try: those of ``resolutions``, and some that need padding in them."""
    return [
        (height * tall // 7, width * wide // 7)
        for height, width in resolutions
        for tall, wide in ((7, 7), (7, 4), (3, 7), (1, 2), (20, 21))
    ]


def _groups(images: Sequence[PixelImage]) -> Iterator[list[PixelImage]]:
    """Images whose tiles fit a batch together, in order; one that has more is alone."""
    group: list[PixelImage] = []
    num_tiles = 0
    for image in images:
        size = len(_tiles_of(image))
        if group and num_tiles + size > MAX_BATCH:
            yield group
            group, num_tiles = [], 0
        group.append(image)
        num_tiles += size
    if group:
        yield group


def _tiles_of(image: PixelImage) -> npt.NDArray[np.float32]:
    """``[num_tiles, 3, side, side]``, not writable: a picture that is not cut is one tile."""
    pixels = np.frombuffer(image.data, "<f4").reshape(image.shape)
    return pixels if pixels.ndim == 4 else pixels[None]
