"""Checkpoints of models with tiles: what is refused, and what is not mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.model.tiny_tiles import (
    NEXT,
    ONEVISION,
    TiledKind,
    save_tiny_tiled,
)
from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError, InvalidImage
from vlm_sessions.model.checkpoint import open_checkpoint
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import make_runner
from vlm_sessions.model.tiles import Tiling

CPU = Settings(device="cpu", dtype="float32", threads=1, kv_cache_mb=1)


def _change(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def test_an_image_processor_that_cuts_differently_than_the_model_is_refused(
    tmp_path: Path, tiled_kind: TiledKind
) -> None:
    path = save_tiny_tiled(tmp_path, tiled_kind)
    _change(path / "preprocessor_config.json", image_grid_pinpoints=[[64, 64]])
    with pytest.raises(ConfigError, match="image_grid_pinpoints differ"):
        make_processor(path)


def test_resolutions_that_are_no_whole_tiles_are_refused(tmp_path: Path) -> None:
    path = save_tiny_tiled(tmp_path, NEXT)
    _change(path / "config.json", image_grid_pinpoints=[[32, 48]])
    with pytest.raises(ConfigError, match="multiples of the vision tower's 32 pixels"):
        open_checkpoint(path)


def test_a_way_of_pooling_that_we_do_not_know_is_refused(tmp_path: Path) -> None:
    path = save_tiny_tiled(tmp_path, ONEVISION)
    _change(path / "config.json", vision_aspect_ratio="pad")
    with pytest.raises(ConfigError, match="'pad'; supported is anyres_max_N"):
        open_checkpoint(path)


def test_class_tokens_among_a_tiles_features_are_refused(tmp_path: Path) -> None:
    path = save_tiny_tiled(tmp_path, NEXT)
    _change(path / "config.json", vision_feature_select_strategy="full")
    with pytest.raises(ConfigError, match="17 features, which are no square"):
        open_checkpoint(path)


def test_a_model_that_packs_otherwise_than_expected_is_refused(
    tmp_path: Path, tiled_kind: TiledKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiny_tiled(tmp_path, tiled_kind)
    monkeypatch.setattr(Tiling, "num_tokens", lambda *_: 23)
    with pytest.raises(ConfigError, match="where 23 are expected"):
        make_runner(CPU, path)


def test_checkpoints_that_cut_differently_have_other_fingerprints(tmp_path: Path) -> None:
    other = TiledKind("other", NEXT.resolutions[:3])
    paths = [save_tiny_tiled(tmp_path / kind.name, kind) for kind in (NEXT, other)]
    assert len({make_processor(path).fingerprint for path in paths}) == 2


def test_a_picture_like_a_thread_is_refused(tiled_path: Path) -> None:
    with pytest.raises(InvalidImage, match="1 × 5000"):
        make_processor(tiled_path).pixels(Image.new("RGB", (1, 5000)), "digest")


def test_a_model_that_always_cuts_is_not_shown_wholes(tiled_paths: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="VLM_IMAGE_TILES=one"):
        open_checkpoint(tiled_paths[NEXT.name], one_tile=True)


def test_wholes_and_tiles_are_not_mixed_up_in_a_session(tiled_paths: dict[str, Path]) -> None:
    path = tiled_paths[ONEVISION.name]
    prints = [make_processor(path, one_tile=one).fingerprint for one in (False, True)]
    assert prints[0] != prints[1]
