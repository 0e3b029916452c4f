"""What can be loaded, and what is said when it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.tiny import CHATML, PLAIN, save_tiny
from vlm_sessions.config import Settings
from vlm_sessions.errors import ConfigError
from vlm_sessions.model.checkpoint import open_checkpoint
from vlm_sessions.model.processor import make_processor
from vlm_sessions.model.runner import make_runner

SETTINGS = Settings(device="cpu", threads=1, kv_cache_mb=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny", PLAIN)


def change_config(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = path / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def test_the_runner_says_what_it_loaded(path: Path) -> None:
    info = make_runner(SETTINGS, path, name="shapes").info
    assert (info.model, info.device, info.dtype) == ("shapes", "cpu", "float32")
    assert info.kv_bytes_per_token == 2 * 3 * 4 * 16 * 4  # k and v, layers, heads, width, float32
    assert info.num_blocks == (1 << 20) // (16 * info.kv_bytes_per_token)
    assert info.max_context == min(1024, info.num_blocks * 16)


def test_a_checkpoint_is_named_after_its_directory(path: Path) -> None:
    assert make_processor(path).model_name == "tiny"


def test_tied_weights_are_not_taken_for_missing_ones(tmp_path: Path) -> None:
    assert make_runner(SETTINGS, save_tiny(tmp_path, CHATML)).info.num_blocks > 0


def test_the_dtype_can_be_chosen(path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dtype": "bfloat16"})
    assert make_runner(settings, path).info.dtype == "bfloat16"


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({}, id="as_saved"),
        pytest.param(
            {"vision_tower.": "vision_tower.vision_model."},
            id="hub",  # llava-hf/llava-1.5-7b-hf has language_model.model.… and this
        ),
        pytest.param(
            {
                "language_model.model.": "model.language_model.",
                "language_model.lm_head.": "lm_head.",
                "vision_tower.": "model.vision_tower.vision_model.",
                "multi_modal_projector.": "model.multi_modal_projector.",
            },
            id="transformers_4_52",
        ),
    ],
)
def test_every_layout_of_keys_is_understood(path: Path, layout: dict[str, str]) -> None:
    weights = load_file(path / "model.safetensors")
    renamed = {}
    for name, tensor in weights.items():
        old = next((prefix for prefix in layout if name.startswith(prefix)), "")
        renamed[layout.get(old, "") + name.removeprefix(old)] = tensor
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    runner = make_runner(SETTINGS, path)
    hidden = torch.eye(64)
    assert torch.allclose(runner._text.logits(hidden).T, weights["language_model.lm_head.weight"])


def test_a_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no directory '/nowhere/model'"):
        open_checkpoint("/nowhere/model")


def test_a_directory_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_broken_config_is_named(path: Path) -> None:
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_checkpoint(path)


def test_a_config_with_a_wrong_type_is_named(path: Path) -> None:
    change_config(path, lambda config: config.update(image_token_index="seven"))
    with pytest.raises(ConfigError, match="cannot be understood"):
        open_checkpoint(path)


def test_an_image_processor_that_does_not_fit_the_vision_tower_is_refused(path: Path) -> None:
    file = path / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["crop_size"] = {"height": 24, "width": 24}
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"\(3, 24, 24\), but its vision tower"):
        make_processor(path)


def test_another_architecture_is_refused_with_what_is_supported(path: Path) -> None:
    change_config(path, lambda config: config.update(architectures=["LlamaForCausalLM"]))
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM; supported are LlavaFor"):
        open_checkpoint(path)


def test_a_text_model_that_we_do_not_know_is_refused(path: Path) -> None:
    change_config(path, lambda config: config.update(text_config={"model_type": "gemma2"}))
    with pytest.raises(ConfigError, match=r"text model of .* is a gemma2"):
        open_checkpoint(path)


def test_a_vision_tower_that_we_do_not_know_is_refused(path: Path) -> None:
    change_config(path, lambda config: config.update(vision_config={"model_type": "pixtral"}))
    with pytest.raises(ConfigError, match=r"vision tower of .* is a pixtral"):
        open_checkpoint(path)


def test_a_sliding_window_is_refused(path: Path) -> None:
    text = {"model_type": "mistral", "sliding_window": 128, "max_position_embeddings": 1024}
    change_config(path, lambda config: config.update(text_config=text))
    with pytest.raises(ConfigError, match="last 128 positions"):
        open_checkpoint(path)


def test_positions_that_depend_on_the_length_are_refused(path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

    def change(config: dict[str, object]) -> None:
        text = config["text_config"]
        assert isinstance(text, dict)
        text["rope_parameters"] = rope

    change_config(path, change)
    with pytest.raises(ConfigError, match="dynamic rotary"):
        open_checkpoint(path)


def test_pickled_weights_are_refused(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickles only"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["shard.bin", "../model.safetensors", "/etc/passwd", ".safetensors"]
)
def test_an_index_of_weights_names_safetensors_beside_it_or_is_refused(
    path: Path, name: str
) -> None:
    # transformers would take a .bin for what it is, and unpickle it.
    (path / "model.safetensors").rename(path / "shard.bin")
    index = {"weight_map": {"lm_head.weight": name}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="nothing else is loaded"):
        open_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(path: Path) -> None:
    mark = path / "it-ran"
    (path / "code.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Any:\n    from_pretrained = from_dict = None\n"
    )
    every = ("Config", "Model", "ModelForImageTextToText", "Tokenizer", "ImageProcessor")
    auto_map = {f"Auto{kind}": "code.Any" for kind in every}
    change_config(path, lambda config: config.update(auto_map=auto_map))
    for name in ("tokenizer_config.json", "processor_config.json"):
        told = json.loads((path / name).read_text()) | {"auto_map": auto_map}
        (path / name).write_text(json.dumps(told))
    make_runner(SETTINGS, path)
    make_processor(path)
    assert not mark.exists()


def test_a_checkpoint_does_not_choose_what_computes_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the package ``kernels`` it could name code to be fetched from the hub, and run."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asks the network"))
    hub = "anybody/attention"

    def change(config: dict[str, Any]) -> None:
        for part in (config, config["text_config"], config["vision_config"]):
            part["attn_implementation"] = part["_attn_implementation"] = hub

    change_config(path, change)
    make_runner(SETTINGS, path)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_chat_template_cannot_reach_beyond_its_messages(path: Path, attack: str) -> None:
    (path / "chat_template.jinja").write_text(attack)
    with pytest.raises(ConfigError, match="is unsafe"):
        make_processor(path)


def test_missing_weight_files_are_named(path: Path) -> None:
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        open_checkpoint(path)
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="model-00001-of-00002"):
        open_checkpoint(path)


def test_weights_that_lack_a_tensor_are_refused_rather_than_made_up(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1.mlp.up_proj" in name))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 1 weights"):
        make_runner(SETTINGS, path)


def test_truncated_weights_are_refused(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        make_runner(SETTINGS, path)


def test_a_missing_tokenizer_is_refused(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="tokenizer"):
        make_processor(path)


def test_a_pool_without_room_for_a_block_names_the_setting(path: Path) -> None:
    settings = SETTINGS.model_copy(update={"block_size": 100_000})
    with pytest.raises(ConfigError, match="VLM_KV_CACHE_MB"):
        make_runner(settings, path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_one_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="VLM_DEVICE"):
        make_runner(SETTINGS.model_copy(update={"device": "cuda"}), path)
