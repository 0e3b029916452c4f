"""What is packed, and when it is packed anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlm_sessions.config import Settings
from vlm_sessions.serve.errors import CannotServe
from vlm_sessions.serve.packaging import Sources, ensure_packed, find_store


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (tmp_path / "some_handler.py").write_text("class Handler: pass\n")
    (tmp_path / "model-config.yaml").write_text("batchSize: 1\n")
    return Sources(tmp_path / "some_handler.py", tmp_path / "model-config.yaml", checkpoint)


def test_the_handler_its_settings_and_the_checkpoint_are_packed(
    tmp_path: Path, sources: Sources
) -> None:
    store = tmp_path / "store"
    assert ensure_packed(store, sources)
    packed = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert packed == {
        ".llava.digest",
        "llava/MAR-INF/MANIFEST.json",
        "llava/checkpoint/config.json",
        "llava/model-config.yaml",
        "llava/some_handler.py",
    }


def test_it_is_packed_anew_only_when_a_source_has_changed(tmp_path: Path, sources: Sources) -> None:
    store = tmp_path / "store"
    assert ensure_packed(store, sources)
    assert not ensure_packed(store, sources)
    (sources.checkpoint / "config.json").write_text('{"new": 1}')
    assert ensure_packed(store, sources)
    assert (store / "llava" / "checkpoint" / "config.json").read_text() == '{"new": 1}'


def test_two_that_pack_at_once_pack_once(tmp_path: Path, sources: Sources) -> None:
    store = tmp_path / "store"
    with ThreadPoolExecutor(2) as threads:
        packed = list(threads.map(lambda _: ensure_packed(store, sources), range(2)))
    assert sorted(packed) == [False, True]


def test_a_directory_of_the_models_name_among_the_temporary_files_is_left_alone(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    anothers = tmp_path / "tmp" / "llava" / "model.safetensors"
    anothers.parent.mkdir(parents=True)
    anothers.write_text("of somebody who packs as well")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert ensure_packed(tmp_path / "store", sources)
    assert anothers.is_file(), "the archiver empties the directory it gathers in"


def test_a_packed_store_serves_without_its_sources(tmp_path: Path, sources: Sources) -> None:
    store = tmp_path / "store"
    ensure_packed(store, sources)
    sources.handler.unlink()
    assert not ensure_packed(store, sources)


def test_a_packed_store_that_cannot_be_written_serves_as_it_is(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    ensure_packed(store, sources)
    (sources.checkpoint / "config.json").write_text('{"new": 1}')
    # Permissions do not stop root, who runs these tests in many a container.
    monkeypatch.setattr("os.access", lambda *_: False)
    assert not ensure_packed(store, sources)
    assert (store / "llava" / "checkpoint" / "config.json").read_text() == "{}"


def test_a_store_that_cannot_be_made_is_an_error_that_names_the_setting(sources: Sources) -> None:
    with pytest.raises(CannotServe, match=r"Not a directory.*VLM_MODEL_STORE"):
        ensure_packed(Path("/dev/null/store"), sources)


def test_the_store_that_the_settings_name_is_taken_as_it_is(
    tmp_path: Path, sources: Sources
) -> None:
    store = tmp_path / "store"
    with pytest.raises(CannotServe, match=f"no packed model in {store}.*VLM_MODEL_STORE"):
        find_store(Settings(model_store=store))
    ensure_packed(store, sources)
    assert find_store(Settings(model_store=store)) == store


def test_neither_a_packed_model_nor_sources_is_an_error(tmp_path: Path) -> None:
    absent = Sources(tmp_path / "handler.py", tmp_path / "config.yaml", tmp_path / "model")
    with pytest.raises(CannotServe, match="no packed model"):
        ensure_packed(tmp_path / "store", absent)
