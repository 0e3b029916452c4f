"""All that an engine keeps and may lose: KV blocks, image features, pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlm_sessions.engine.blocks import BlockPool
from vlm_sessions.engine.content import TokenChain
from vlm_sessions.engine.eviction import make_policy
from vlm_sessions.engine.features import FeatureCache
from vlm_sessions.engine.images import ImageLedger
from vlm_sessions.engine.limits import EngineLimits
from vlm_sessions.engine.prices import Prices
from vlm_sessions.engine.types import CacheLocation, EngineInfo, ImageSpan


class Caches:
    """The accounts of every level of one engine's cache. Not thread-safe.

    Args:
        prices: what it costs to get things back.
        wall: seconds since the epoch, against which retentions expire.
    """

    def __init__(
        self,
        info: EngineInfo,
        limits: EngineLimits,
        feature_bytes_per_token: int,
        *,
        prices: Prices,
        wall: Callable[[], float],
    ) -> None:
        policy = make_policy(limits.eviction)
        self.pool = BlockPool(
            info.num_blocks,
            info.block_size,
            wall,
            num_host_blocks=info.num_host_blocks,
            block_bytes=info.block_size * info.kv_bytes_per_token,
            policy=policy,
            prices=prices,
        )
        features = FeatureCache(
            limits.feature_bytes,
            feature_bytes_per_token,
            host_budget_bytes=info.host_feature_bytes,
            policy=policy,
            prices=prices,
            clock=wall,
        )
        self.images = ImageLedger(limits, features)

    def locate(
        self, tokens: Sequence[int], images: Sequence[ImageSpan], salt: str = ""
    ) -> CacheLocation:
        """Where a prefix is cached. Changes nothing, not even what was used last."""
        chain = TokenChain(tokens, images, self.pool.block_size, salt)
        digests = tuple(dict.fromkeys(image.digest for image in images))
        match = self.pool.match(chain, len(tokens))
        kv_tokens = self.pool.count_on_device(match)
        return CacheLocation(
            kv_tokens=kv_tokens,
            host_kv_tokens=match.num_tokens - kv_tokens,
            features=tuple(d for d in digests if d in self.images.features),
            host_features=tuple(d for d in digests if self.images.features.is_stored(d)),
            pixels=tuple(d for d in digests if d in self.images.pixels),
        )

    def retain(self, key: str, tip: int | None, images: Sequence[ImageSpan], until: float) -> None:
        """Have a prefix that ends with block ``tip`` kept, and the images in it, until then.

        Replaces what was retained under ``key``.
        """
        self.pool.retain(key, tip, until)
        self.images.features.retain(key, (image.digest for image in images), until)

    def release(self, key: str) -> None:
        """Give up a retention. What only it wanted becomes the first to be evicted."""
        self.pool.release(key)
        self.images.features.release_wish(key, is_given_up=True)

    def expire(self) -> None:
        """Give up the retentions whose time has come."""
        self.pool.expire()
        self.images.features.expire()

    def clear(self) -> None:
        """Drop everything that no turn uses."""
        self.pool.clear()
        self.images.clear()
