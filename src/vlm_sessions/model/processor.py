"""Text and images of one checkpoint: its tokenizer, its chat template, its image processor.

Runs in the worker, which never loads weights. ``processing.Processor`` says what each method
promises. That a conversation put together turn by turn has the very token ids that the checkpoint's
own Hugging Face processor gives for the whole of it is checked when a model is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from PIL.Image import new as new_image
from transformers import AutoImageProcessor, AutoTokenizer

from vlm_sessions.engine.types import ImageSpan, PixelImage
from vlm_sessions.errors import ConfigError, InvalidField, InvalidImage, ReservedText
from vlm_sessions.model.chat_template import ChatTemplate, find_template
from vlm_sessions.model.checkpoint import Checkpoint, open_checkpoint
from vlm_sessions.model.detokenizer import IncrementalDetokenizer
from vlm_sessions.model.probes import check_pixels, check_turns
from vlm_sessions.processing import Detokenizer, ImageRef, Message, Segment

# A later turn is tokenized behind this text, which is cut off again: tokenizers treat the beginning
# of a text differently (SentencePiece puts a space before it), and a turn is no beginning.
ANCHOR = "x"

# Beginnings that a question may have. What a tokenizer makes of the words before it may depend on
# the first of them, so an opening ends where these begin to disagree.
QUESTION_STARTS = (*"aA1.:é中🙂", "What", " ", "  x", "\n", "\n\n", "")

MAX_ASPECT_RATIO = 100
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def _fingerprint(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest.hexdigest()[:32]


def make_processor(
    model: str | Path, *, name: str | None = None, one_tile: bool = False
) -> HFProcessor:
    """Load the text and image processing of a checkpoint; never its weights.

    Args:
        model: a checkpoint directory or a hub id.
        name: what ``model_name`` is; by default the hub id or the directory's name.
        one_tile: make one tile of each picture, if the model would have several.

    Raises:
        ConfigError: the checkpoint cannot be served.
    """
    checkpoint = open_checkpoint(model, name=name, one_tile=one_tile)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
        images = AutoImageProcessor.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as exc:
        raise ConfigError(
            f"The tokenizer or image processor of {checkpoint.path} cannot be loaded: {exc}"
        ) from exc
    processor = HFProcessor(checkpoint, tokenizer, images)
    check_pixels(processor, checkpoint, images)
    try:
        check_turns(processor, checkpoint, processor.roundtrip)
    except ConfigError:
        joined = HFProcessor(checkpoint, tokenizer, images, joined=True)
        with contextlib.suppress(ConfigError):
            check_turns(joined, checkpoint, joined.roundtrip)
            return joined
        raise
    return processor


class HFProcessor:
    """``processing.Processor`` over transformers' tokenizers and image processors.

    Args:
        joined: see ``chat_template.ChatTemplate``.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Any, images: Any, *, joined: bool = False
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"{checkpoint.path} has no tokenizer.json, which is needed: load its tokenizer "
                "with transformers once and save it again."
            )
        self._checkpoint = checkpoint
        self._images = images
        self._backend = tokenizer.backend_tokenizer
        # The only changes of its state, before threads share it: encoding must neither cut nor pad.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._bos: str | None = tokenizer.bos_token
        template = find_template(checkpoint.path, tokenizer.chat_template)
        self._fingerprint = _fingerprint(
            self._backend.to_str(), template, _describe_images(checkpoint)
        )
        self._template = ChatTemplate(
            lambda messages: str(
                tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True
                )
            ),
            joined=joined,
        )
        self._reserved = _reserved_texts(tokenizer, checkpoint.image_token_id)
        self._special_ids = frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        self._byte_ids = frozenset(
            token_id
            for token, token_id in self._backend.get_vocab().items()
            if BYTE_TOKEN.fullmatch(token)
        )

    @property
    def model_name(self) -> str:
        return self._checkpoint.name

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def max_context(self) -> int:
        return self._checkpoint.max_context

    def num_image_tokens(self, width: int, height: int) -> int:
        """See ``processing.Processor``.

        Raises:
            InvalidImage: so elongated that resizing its short side would make its long side huge.
        """
        short, long = sorted((width, height))
        if long > MAX_ASPECT_RATIO * short:
            raise InvalidImage(
                f"The image is {width} × {height} pixels; one side may be at most "
                f"{MAX_ASPECT_RATIO} times as long as the other."
            )
        return self._checkpoint.num_image_tokens(width, height)

    def encode_opening(self, system: str | None, images: Sequence[ImageRef]) -> Segment:
        self._check_text(system or "")
        form = self._template.first_form(system=system is not None, num_images=len(images))
        head = self._encode_start(form.opening(system=system))
        placeholders = [i for i, token in enumerate(head) if self._is_image(token)]
        if images and len(placeholders) == len(images):
            # A placeholder is a special token: nothing after it can change what stands before.
            return self._expand(head[: placeholders[-1] + 1], images)
        starts = [self._encode_start(form.fill(system=system, text=s)) for s in QUESTION_STARTS]
        head = head[: _num_common([head, *starts])]
        return self._expand(head, images[: sum(map(self._is_image, head))])

    def encode_turn(
        self, *, first: bool, system: str | None, text: str, images: Sequence[ImageRef]
    ) -> Segment:
        self._check_text(text)
        if not first:
            form = self._template.later_form(num_images=len(images))
            return self._expand(self._encode_tail(form.fill(system=None, text=text)), images)
        self._check_text(system or "")
        form = self._template.first_form(system=system is not None, num_images=len(images))
        return self._expand(self._encode_start(form.fill(system=system, text=text)), images)

    def encode_conversation(self, messages: Sequence[Message]) -> Segment:
        if not messages or messages[-1].role != "user":
            raise InvalidField("The last message must be the user's.")
        for message in messages:
            self._check_text(message.text)
        images = [image for message in messages for image in message.images]
        return self._expand(self._encode_start(self._template.render(messages)), images)

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._backend.decode(list(tokens), skip_special_tokens=True)
        return text

    def detokenizer(self) -> Detokenizer:
        return IncrementalDetokenizer(
            self.decode, skipped=self._special_ids, byte_ids=self._byte_ids
        )

    def pixels(self, image: Image, digest: str) -> PixelImage:
        self.num_image_tokens(image.width, image.height)  # refuses what may not be resized
        tiling = self._checkpoint.tiling
        # A picture among several is not cut; the other one is made as small as can be.
        whole_only = tiling is not None and tiling.whole_only
        images = [[image, new_image("RGB", (1, 1))]] if whole_only else image
        values = self._images(images=images, return_tensors="np")["pixel_values"][0]
        data = np.ascontiguousarray(values, dtype="<f4")
        size = None if tiling is None else (image.height, image.width)
        return PixelImage(digest=digest, shape=data.shape, data=data.tobytes(), size=size)

    def roundtrip(self, text: str) -> str:
        """A text as it comes out of the tokenizer again, without white space around it."""
        return self.decode(self._backend.encode(text, add_special_tokens=False).ids).strip()

    def _encode_start(self, text: str) -> list[int]:
        """Token ids of a text that begins a conversation."""
        # As Hugging Face's processors do: the tokenizer adds what begins a text (<s>), unless the
        # template has already written it.
        templated = self._bos is not None and text.startswith(self._bos)
        ids: list[int] = self._backend.encode(text, add_special_tokens=not templated).ids
        return ids

    def _encode_tail(self, text: str) -> list[int]:
        """Token ids of a text that continues a conversation."""
        anchor: list[int] = self._backend.encode(ANCHOR, add_special_tokens=False).ids
        ids: list[int] = self._backend.encode(ANCHOR + text, add_special_tokens=False).ids
        assert ids[: len(anchor)] == anchor, "the tokenizer joins an answer with what follows it"
        return ids[len(anchor) :]

    def _is_image(self, token: int) -> bool:
        return token == self._checkpoint.image_token_id

    def _expand(self, ids: Sequence[int], images: Sequence[ImageRef]) -> Segment:
        """Put as many placeholders for each image as it has features."""
        if sum(map(self._is_image, ids)) != len(images):
            raise ReservedText(
                "The text holds the model's image token in another spelling. "
                "Remove it, and send images in `images`."
            )
        tokens: list[int] = []
        spans: list[ImageSpan] = []
        remaining = iter(images)
        for token in ids:
            if self._is_image(token):
                image = next(remaining)
                spans.append(ImageSpan(image.digest, len(tokens), image.num_tokens))
                tokens += [token] * image.num_tokens
            else:
                tokens.append(token)
        return Segment(tuple(tokens), tuple(spans))

    def _check_text(self, text: str) -> None:
        """Refuse text that the tokenizer would read as something else than text."""
        if found := self._reserved.search(text):
            raise ReservedText(
                f"The text holds {found.group()!r}, which the model reserves. Remove it, or put a "
                "space into it. Images go into `images`, and turns are separate prompts."
            )
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise InvalidField(
                "The text holds half of a surrogate pair, which is not Unicode text. Remove it."
            ) from exc


def _describe_images(checkpoint: Checkpoint) -> str:
    """Whatever decides how many placeholders an image has."""
    if checkpoint.tiling is None:
        return str(checkpoint.num_tile_tokens)
    return f"{checkpoint.num_tile_tokens} {checkpoint.tiling}"


def _reserved_texts(tokenizer: Any, image_token_id: int) -> re.Pattern[str]:
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, tokenizer.convert_ids_to_tokens(image_token_id)}
    return re.compile("|".join(re.escape(text) for text in sorted(special, key=len, reverse=True)))


def _num_common(sequences: Sequence[Sequence[int]]) -> int:
    """How long the longest common prefix is."""
    shortest = min(map(len, sequences))
    return next((i for i in range(shortest) if len({s[i] for s in sequences}) > 1), shortest)
