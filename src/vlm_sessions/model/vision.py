"""Images: pixels through the vision tower and the projector, once, to features kept by digest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from vlm_sessions.engine.types import PixelImage

MAX_BATCH = 8  # images encoded at once: bounds the memory that a step needs


class FeatureStore:
    """Digest -> features ``[num_image_tokens, hidden_size]`` on the device.

    What is kept, and for how long, is the scheduler's decision: nothing is ever dropped here.
    """

    def __init__(self, model: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self._features: dict[str, torch.Tensor] = {}

    def drop(self, digests: Iterable[str]) -> None:
        """Forget features. Unknown digests are ignored."""
        for digest in digests:
            self._features.pop(digest, None)

    def encode(self, images: Sequence[PixelImage]) -> None:
        """Compute and keep the features of images; those of one shape together."""
        by_shape: defaultdict[tuple[int, ...], list[PixelImage]] = defaultdict(list)
        for image in images:
            by_shape[image.shape].append(image)
        for alike in by_shape.values():
            for first in range(0, len(alike), MAX_BATCH):
                self._encode_batch(alike[first : first + MAX_BATCH])

    def rows(self, digest: str, offset: int, length: int) -> torch.Tensor:
        """Features ``[offset, offset + length)`` of an image.

        Raises:
            RuntimeError: they were never encoded, or already dropped. An answer without its image
                would be worse than none.
        """
        features = self._features.get(digest)
        if features is None or offset + length > features.shape[0]:
            raise RuntimeError(f"the features of image {digest[:12]} are not on the device")
        return features[offset : offset + length]

    def num_rows(self, digest: str) -> int:
        """How many features an image has; 0 while there are none of it."""
        features = self._features.get(digest)
        return 0 if features is None else features.shape[0]

    def _encode_batch(self, images: Sequence[PixelImage]) -> None:
        pixels = np.stack([np.frombuffer(i.data, "<f4").reshape(i.shape) for i in images])
        config = self._model.config
        output = self._model.get_image_features(
            pixel_values=torch.from_numpy(pixels).to(self._device, self._dtype),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        # The rest of the output is the tower's hidden states: many times larger, and of no use.
        features = getattr(output, "pooler_output", output)
        for image, rows in zip(images, features, strict=True):
            # A copy of its own, so that dropping one image frees its memory, not a batch's.
            self._features[image.digest] = rows.to(self._dtype).clone()
