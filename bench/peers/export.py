"""A checkpoint as OpenVINO reads it: ``python -m bench.peers.export CHECKPOINT OUT``, in the
environment that has optimum-intel. Takes minutes."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import openvino  # type: ignore[import-not-found]
from openvino_tokenizers import convert_tokenizer  # type: ignore[import-not-found]
from optimum.intel import OVModelForVisualCausalLM  # type: ignore[import-not-found]
from transformers import AutoProcessor, AutoTokenizer


def export(checkpoint: Path, out: Path) -> None:
    """Write ``out`` whole or not at all."""
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        source, written = Path(work, "source"), Path(work, "written")
        shutil.copytree(checkpoint, source)
        _make_convertible(source / "tokenizer.json")
        model = OVModelForVisualCausalLM.from_pretrained(
            source, export=True, load_in_8bit=False, compile=False
        )
        model.save_pretrained(written)
        AutoProcessor.from_pretrained(source).save_pretrained(written)
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.save_pretrained(written)
        parts = convert_tokenizer(tokenizer, with_detokenizer=True)
        for name, part in zip(("tokenizer", "detokenizer"), parts, strict=True):
            openvino.save_model(part, written / f"openvino_{name}.xml")
        _write_old_preprocessor_config(written)
        written.rename(out)


def _make_convertible(path: Path) -> None:
    """Whole words by a model of pieces: openvino_tokenizers has none of whole words. Text reaches
    it as words already, so it needs no normalizing."""
    tokenizer = json.loads(path.read_text())
    tokenizer["model"] = {
        "type": "WordPiece",
        "unk_token": tokenizer["model"]["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": tokenizer["model"]["vocab"],
    }
    tokenizer["normalizer"] = None
    tokenizer["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    tokenizer["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": False}
    path.write_text(json.dumps(tokenizer))


def _write_old_preprocessor_config(folder: Path) -> None:
    """Where GenAI looks for the picture's size. Without this file it takes another size, and says
    nothing."""
    new = json.loads((folder / "processor_config.json").read_text())
    old = {**new["image_processor"], "processor_class": "LlavaProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
