"""Pictures cut into tiles: counted, cut and encoded as transformers does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from tests.model.reference import Reference
from tests.model.tiny import noise_image
from tests.model.tiny_tiles import (
    GRID,
    ONEVISION,
    SIZES,
    TiledKind,
    their_num_tokens,
)
from vlm_sessions.engine.types import PixelImage
from vlm_sessions.errors import InvalidImage
from vlm_sessions.model.checkpoint import Checkpoint, open_checkpoint
from vlm_sessions.model.processor import MAX_ASPECT_RATIO, make_processor
from vlm_sessions.model.tiles import Tiling, make_tiling
from vlm_sessions.model.tower import MAX_BATCH, VisionTower


def test_a_picture_has_as_many_placeholders_as_transformers_gives_it(
    tiled_path: Path, tiled_kind: TiledKind
) -> None:
    processor = make_processor(tiled_path)
    random = np.random.default_rng(0)
    sizes = [tuple(map(int, random.integers(2, 300, 2))) for _ in range(100)]
    for width, height in (*SIZES, *sizes):
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            continue  # refused, see test_processor
        expected = their_num_tokens(tiled_path, tiled_kind, width, height)
        assert processor.num_image_tokens(width, height) == expected, (width, height)


def test_tiles_are_those_of_transformers(tiled_path: Path) -> None:
    processor = make_processor(tiled_path)
    theirs = AutoImageProcessor.from_pretrained(tiled_path, backend="pil")
    for number, size in enumerate(SIZES):
        picture = noise_image(number, size)
        ours = processor.pixels(picture, "digest")
        expected = theirs(picture, return_tensors="np")
        assert ours.size == (size[1], size[0]) == tuple(expected["image_sizes"][0])
        assert ours.shape == expected["pixel_values"][0].shape
        values = np.frombuffer(ours.data, "<f4").reshape(ours.shape)
        assert np.array_equal(values, expected["pixel_values"][0])


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 5000), height=st.integers(1, 5000), max_tiles=st.none() | st.integers(1, 9)
)
def test_a_picture_of_any_size_has_its_tokens_counted_or_is_refused(
    width: int, height: int, max_tiles: int | None
) -> None:
    pairs = tuple((384 * h, 384 * w) for h in range(1, 7) for w in range(1, 7))
    tiling = Tiling(384, 27, pairs, max_tiles)
    most = 6 * 6 * 27**2 + 6 * 27
    if max_tiles is not None:
        most = int(1.1**2 * max_tiles * 27**2) + 6 * 27
    assert 2 <= tiling.num_tiles(width, height) <= 37
    assert 27**2 <= tiling.num_tokens(width, height) <= 27**2 + most


def test_a_picture_of_which_pooling_would_leave_nothing_is_refused() -> None:
    tiling = Tiling(32, 3, ((32, 384),), max_pooled_tiles=1)
    with pytest.raises(InvalidImage, match="too elongated"):
        tiling.num_tokens(1000, 10)


@pytest.mark.parametrize("model", [LlavaNextModel, LlavaOnevisionModel])
def test_the_hubs_models_pack_as_many_features_as_are_counted(model: Any) -> None:
    """With the resolutions of llava-v1.6 and llava-onevision, whatever the picture's sides."""
    config = model.config_class()
    side = config.vision_config.image_size
    grid = side // config.vision_config.patch_size
    tiling = make_tiling(
        side=side,
        grid=grid,
        resolutions=config.image_grid_pinpoints,
        aspect_ratio=getattr(config, "vision_aspect_ratio", None),
    )
    options = {} if model is LlavaOnevisionModel else {"vision_feature_select_strategy": "default"}
    random = np.random.default_rng(0)
    for height, width in (random.lognormal(6.2, 0.9, (200, 2)) + 1).astype(int).tolist():
        blank = torch.zeros(tiling.num_tiles(width, height), grid**2, 1)
        (rows,), _ = model.pack_image_features(
            SimpleNamespace(config=config),
            [blank],
            [(height, width)],
            image_newline=torch.zeros(1),
            **options,
        )
        assert len(rows) == tiling.num_tokens(width, height), (width, height)


def test_pictures_encoded_together_have_the_features_that_transformers_gives_each(
    tiled_path: Path,
) -> None:
    processor, reference = make_processor(tiled_path), Reference(tiled_path)
    pixels = [processor.pixels(noise_image(n, size), f"{n}") for n, size in enumerate(SIZES)]
    assert len({image.shape[0] for image in pixels}) > 1, "different numbers of tiles"
    tower = _tower(open_checkpoint(tiled_path), Reference(tiled_path))
    with torch.inference_mode():
        together = tower.compute(pixels)
        for image, size, rows in zip(pixels, SIZES, together, strict=True):
            tiles = torch.from_numpy(np.frombuffer(image.data, "<f4").reshape(image.shape).copy())
            theirs = reference.model.get_image_features(
                pixel_values=tiles[None], image_sizes=torch.tensor([image.size])
            ).pooler_output[0]
            assert rows.shape == theirs.shape == (processor.num_image_tokens(*size), 64)
            assert torch.allclose(rows, theirs, atol=1e-5)


def test_the_tower_never_has_more_than_a_batch_of_tiles_or_one_picture_at_once(
    tiled_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = make_processor(tiled_path)
    tower = _tower(open_checkpoint(tiled_path), Reference(tiled_path))
    num_tiles: list[int] = []
    compute_tiles, pack = tower.compute_tiles, tower._pack

    def count(pixels: torch.Tensor) -> torch.Tensor:
        num_tiles.append(len(pixels))
        return compute_tiles(pixels)

    def bound(features: Sequence[torch.Tensor], *rest: Any) -> list[torch.Tensor]:
        assert len(features) == 1 or sum(map(len, features)) <= MAX_BATCH
        return pack(features, *rest)

    monkeypatch.setattr(tower, "compute_tiles", count)
    monkeypatch.setattr(tower, "_pack", bound)
    pixels = [processor.pixels(noise_image(n, size), f"{n}") for n, size in enumerate(SIZES)]
    with torch.inference_mode():
        assert len(tower.compute(pixels)) == len(SIZES)
        assert max(num_tiles) <= MAX_BATCH
        assert sum(num_tiles) == sum(image.shape[0] for image in pixels)
        tower.compute_largest()


def test_an_image_with_another_number_of_features_than_placeholders_fails_loudly(
    tiled_path: Path,
) -> None:
    image = make_processor(tiled_path).pixels(noise_image(0, (90, 41)), "digest")
    tower = _tower(open_checkpoint(tiled_path), Reference(tiled_path))
    disguised = PixelImage("digest", image.shape, image.data, size=(41, 60))
    with torch.inference_mode(), pytest.raises((RuntimeError, ValueError)):
        tower.compute([disguised])
    missing = PixelImage("digest", image.shape, image.data)
    with torch.inference_mode(), pytest.raises((RuntimeError, TypeError)):
        tower.compute([missing])


def _tower(checkpoint: Checkpoint, reference: Reference) -> VisionTower:
    return VisionTower(reference.model, checkpoint, device=torch.device("cpu"), dtype=torch.float32)


def test_a_single_picture_shown_as_a_whole_has_the_features_that_it_has_among_others(
    tiled_paths: dict[str, Path],
) -> None:
    path = tiled_paths[ONEVISION.name]
    processor = make_processor(path, one_tile=True)
    checkpoint = open_checkpoint(path, one_tile=True)
    tower = _tower(checkpoint, Reference(path))
    pixels = [processor.pixels(noise_image(n, size), f"{n}") for n, size in enumerate(SIZES)]
    with torch.inference_mode():
        (alone,) = tower.compute(pixels[:1])
        assert torch.allclose(alone, tower.compute(pixels)[0], atol=1e-5)
    assert len(alone) == processor.num_image_tokens(*SIZES[0]) == GRID**2 + 1
