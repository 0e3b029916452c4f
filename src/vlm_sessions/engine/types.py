"""What crosses the engine's two borders: messages to and from its clients, plans to its runner.

    service ──Turn, PixelImage──▶ engine ──Plan──▶ runner (torch)
            ◀──────Event─────────        ◀─StepResult─

Everything here is an immutable ``msgspec.Struct``: the same types serve in process and, encoded as
MessagePack, between processes. Nothing here imports torch, and no type names a session: an engine
sees token ids, content digests and opaque keys.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

# --- service → engine ---------------------------------------------------------------------------


class ImageSpan(msgspec.Struct, frozen=True, gc=False):
    """Where an image stands in a token list: its placeholders fill ``[start, start + length)``."""

    digest: str
    """sha256 of the encoded bytes, hex: the content, never a name that a client chose. Behind an
    engine's client, of a turn with a salt, what ``content.salted`` makes of it."""
    start: int
    length: int


class Sampling(msgspec.Struct, frozen=True, gc=False):
    """How to choose tokens. ``temperature == 0`` is greedy and ignores the rest.

    The draw for output ``n`` depends on ``seed`` and ``n`` only, never on the rest of the batch.
    """

    max_new_tokens: int
    """May be 0: then the turn only computes and caches its prompt."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    seed: int = 0
    ignore_eos: bool = False


class Retention(msgspec.Struct, frozen=True, gc=False):
    """A hint that this turn's blocks will be wanted again.

    ``key`` is opaque to the engine; a new retention under the same key replaces the old one.
    ``until`` is in seconds since the epoch.
    """

    key: str
    until: float


class Turn(msgspec.Struct, frozen=True):
    """One prompt: the whole conversation so far as token ids, images as spans over placeholders."""

    turn_id: str
    tokens: tuple[int, ...]
    images: tuple[ImageSpan, ...]
    """In order of ``start``, not overlapping, inside ``tokens``."""
    sampling: Sampling
    retention: Retention | None = None
    salt: str = ""
    """Opaque. A turn finds cached only what turns of the same salt have left: neither KV, features
    nor pixels of any other."""
    client: str = ""
    """Whose it is, opaque to the engine: clients take turns. Empty: a client of its own."""


class PixelImage(msgspec.Struct, frozen=True):
    """A preprocessed image: float32 little-endian, C order, ``shape`` without a batch dimension."""

    digest: str
    shape: tuple[int, ...]
    data: bytes
    size: tuple[int, int] | None = None
    """Height and width of the picture itself, in pixels, where ``shape`` is that of its tiles."""


# --- engine → service ---------------------------------------------------------------------------


class FinishReason(StrEnum):
    STOP = "stop"
    """An end-of-sequence token was sampled; it is not among the events."""
    LENGTH = "length"
    CANCELLED = "cancelled"


class PixelsNeeded(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The turn waits for this image: no features or pixels of it are cached. Answer with pixels."""

    turn_id: str
    digest: str


class Prefilled(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The turn's prompt has been computed. Sent once, before its first token."""

    turn_id: str
    prompt_tokens: int
    cached_tokens: int
    """How many of ``prompt_tokens`` were found in KV blocks, and so not computed."""
    images_encoded: int
    """How many images went through the vision tower for this turn."""
    queue_ms: float
    """From submission to the first step that computed something for it."""


class TokenOut(msgspec.Struct, frozen=True, tag=True, gc=False):
    turn_id: str
    token: int


class Finished(msgspec.Struct, frozen=True, tag=True, gc=False):
    turn_id: str
    reason: FinishReason


class Failed(msgspec.Struct, frozen=True, tag=True, gc=False):
    """The turn is over without an answer. ``code`` is the ``code`` of a class in ``errors``."""

    turn_id: str
    code: str
    message: str


Event = PixelsNeeded | Prefilled | TokenOut | Finished | Failed


class EngineInfo(msgspec.Struct, frozen=True):
    """What the engine found when it loaded the model."""

    model: str
    device: str
    dtype: str
    num_blocks: int
    block_size: int
    max_context: int
    """Tokens of prompt and answer together, at most: the model's positions or the whole pool."""
    kv_bytes_per_token: int
    load_seconds: float
    num_host_blocks: int = 0
    """KV blocks that the host has room for, beside those of the device."""
    host_feature_bytes: int = 0
    """Image features that the host has room for."""


class CacheLocation(msgspec.Struct, frozen=True):
    """Where a prefix is cached just now; looking does not change what is kept."""

    kv_tokens: int
    """Tokens of the prefix whose KV is on the device."""
    host_kv_tokens: int
    """Those after them whose KV is on the host."""
    features: tuple[str, ...]
    """Digests of those images whose features are on the device."""
    host_features: tuple[str, ...]
    """… and on the host."""
    pixels: tuple[str, ...]


class EngineStats(msgspec.Struct, frozen=True):
    """Gauges of this moment, then counters since the engine started."""

    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_in_use: int = 0
    """Referenced by running turns."""
    blocks_cached: int = 0
    """Hold a reusable prefix, to their end or not, referenced by no running turn."""
    blocks_retained: int = 0
    """Those cached blocks that a retention protects."""
    kv_capacity_bytes: int = 0
    kv_bytes: int = 0
    """Of blocks in use or cached."""
    host_blocks_total: int = 0
    host_blocks_stored: int = 0
    host_kv_capacity_bytes: int = 0
    host_kv_bytes: int = 0
    features_cached: int = 0
    feature_capacity_bytes: int = 0
    feature_bytes: int = 0
    host_features_stored: int = 0
    host_feature_capacity_bytes: int = 0
    host_feature_bytes: int = 0
    pixels_cached: int = 0
    pixel_capacity_bytes: int = 0
    pixel_bytes: int = 0
    steps_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    images_encoded_total: int = 0
    feature_hits_total: int = 0
    features_evicted_total: int = 0
    """Features that left the device to make room."""
    host_features_restored_total: int = 0
    host_features_evicted_total: int = 0
    pixel_hits_total: int = 0
    """Images that were encoded from pixels that were cached, without asking for them."""
    pixels_evicted_total: int = 0
    blocks_evicted_total: int = 0
    """Blocks that left the device to make room."""
    host_blocks_stored_total: int = 0
    host_blocks_loaded_total: int = 0
    host_blocks_evicted_total: int = 0
    host_tokens_total: int = 0
    """Prompt tokens that were found on the host."""
    host_load_seconds_total: float = 0.0
    blocks_copied_total: int = 0
    preemptions_total: int = 0
    restarts_total: int = 0


# --- scheduler → runner -------------------------------------------------------------------------


class ImageSlice(msgspec.Struct, frozen=True, gc=False):
    """Rows ``[offset, offset + length)`` of an image's features stand at ``position`` of a span."""

    digest: str
    offset: int
    position: int
    length: int


class Draw(msgspec.Struct, frozen=True, gc=False):
    """Sample one token after a span's last position, as output number ``index`` of its turn."""

    sampling: Sampling
    index: int


class TokenSpan(msgspec.Struct, frozen=True):
    """Consecutive tokens of one turn to be computed in this step.

    Token ``i`` of the span has position ``start + i`` and is written to slot
    ``blocks[(start + i) // block_size] * block_size + (start + i) % block_size``; it attends to
    positions ``0 … start + i`` through the same table.
    """

    turn_id: str
    tokens: tuple[int, ...]
    start: int
    blocks: tuple[int, ...]
    """The turn's block table from position 0; long enough for ``start + len(tokens)``."""
    images: tuple[ImageSlice, ...] = ()
    draw: Draw | None = None
    """``None``: more of the prompt follows in a later step, or nothing is to be sampled."""


class BlockCopy(msgspec.Struct, frozen=True, gc=False):
    """The first ``num_tokens`` slots of block ``source`` are to be those of ``target`` as well.

    The other slots of ``target`` then hold nothing. Both may be the same block.
    """

    source: int
    target: int
    num_tokens: int


class BlockStore(msgspec.Struct, frozen=True, gc=False):
    """Block ``block`` of the device is to be copied to slot ``slot`` of the host."""

    block: int
    slot: int


class BlockLoad(msgspec.Struct, frozen=True, gc=False):
    """The first ``num_tokens`` slots of the host's ``slot`` are to be those of block ``block``.

    The other slots of ``block`` then hold nothing.
    """

    slot: int
    block: int
    num_tokens: int


class Plan(msgspec.Struct, frozen=True):
    """One step's work.

    The runner does ``offload``, ``drop``, ``forget``, ``restore``, then begins to ``encode``; then
    ``store``, ``copies``, ``load``, and last ``spans``. No span of this plan touches a block that
    is loaded, so loads may run beside the spans, once the stores are done: the next plan relies on
    them.
    """

    spans: tuple[TokenSpan, ...] = ()
    copies: tuple[BlockCopy, ...] = ()
    """One after another: a later one may read what an earlier one wrote, or write over it."""
    store: tuple[BlockStore, ...] = ()
    """Blocks that give way: later moves and spans of this plan may write over them."""
    load: tuple[BlockLoad, ...] = ()
    encode: tuple[PixelImage, ...] = ()
    """Images to begin to run through the vision tower, which works beside this step and those
    after it. ``StepResult.encoded`` says when each is done; no plan uses it before. Features stay
    until dropped."""
    drop: tuple[str, ...] = ()
    """Digests whose features are to be freed; never of an image that is not done."""
    offload: tuple[str, ...] = ()
    """Digests whose features are to go to the host."""
    forget: tuple[str, ...] = ()
    """Digests whose features on the host are to be freed."""
    restore: tuple[str, ...] = ()
    """Digests whose features are to come back from the host, for spans of this plan."""
    wait: bool = False
    """Nothing can be done before an image is: return when one is, or soon, to be asked again."""

    def __bool__(self) -> bool:
        blocks = self.copies or self.store or self.load
        features = self.encode or self.offload or self.drop or self.forget or self.restore
        return bool(self.spans or blocks or features or self.wait)


class Sampled(msgspec.Struct, frozen=True, gc=False):
    turn_id: str
    token: int
    is_eos: bool


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An image whose features are there for the next plan."""

    digest: str
    seconds: float
    """Of the vision tower, its share if it was one of a batch."""


class StepResult(msgspec.Struct, frozen=True):
    """What a plan gave: one ``Sampled`` for each span that asked for a draw, in their order."""

    sampled: tuple[Sampled, ...] = ()
    encoded: tuple[Encoded, ...] = ()
    """Images that were done by the end of this step, whichever plan began them."""
    blocks_loaded: int = 0
    """Blocks that have come from the host since the last result, whichever plan asked for them."""
    load_seconds: float = 0.0
    """What that took, beside whatever else was done meanwhile."""
