"""Features by digest, on the device and on the host: computed once, kept until dropped."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class FeatureStore:
    """Digest -> features ``[num_image_tokens, hidden_size]`` on the device.

    What is kept, and for how long, is the scheduler's decision: nothing is ever dropped here.
    """

    def __init__(self) -> None:
        self._features: dict[str, torch.Tensor] = {}
        self._on_host: dict[str, tuple[torch.Tensor, torch.device]] = {}
        """digest -> features in pinned memory, and where they came from"""

    def offload(self, digests: Iterable[str]) -> None:
        """Move features to the host."""
        for digest in digests:
            features = self._features.pop(digest)
            is_cuda = features.device.type == "cuda"
            copy = torch.empty(features.shape, dtype=features.dtype, pin_memory=is_cuda)
            self._on_host[digest] = copy.copy_(features, non_blocking=True), features.device

    def restore(self, digests: Iterable[str]) -> None:
        """Move features back to the device."""
        for digest in digests:
            features, device = self._on_host.pop(digest)
            self._features[digest] = features.to(device, non_blocking=True)

    def forget(self, digests: Iterable[str]) -> None:
        """Forget features that are on the host."""
        for digest in digests:
            del self._on_host[digest]

    def drop(self, digests: Iterable[str]) -> None:
        """Forget features. Unknown digests are ignored."""
        for digest in digests:
            self._features.pop(digest, None)

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Keep features ``[num_image_tokens, hidden_size]``, which nobody else may change."""
        self._features[digest] = features

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
