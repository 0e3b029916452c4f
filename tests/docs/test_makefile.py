"""The command list: what it installs and in which order, and what it says where that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT

# Stands for the environment's python: notes what pip is asked for, runs everything else.
_PYTHON = """\
#!/bin/bash
if [ "$1 $2" = "-m pip" ]; then echo "${@:3}" >> "$PIP_CALLS"; else exec %s "$@"; fi
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment without anything in it yet."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(_PYTHON % sys.executable)
    python.chmod(0o755)
    return python.parents[1]


def outside_make() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def make(
    target: str, venv: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", target, f"VENV={venv}", *arguments],
        cwd=ROOT,
        # not as a child of the make that may run these tests: that one would announce directories
        env={**outside_make(), "PIP_CALLS": str(venv / "pip-calls"), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_setup_installs_torch_alone_first_and_everything_pinned_only_once(venv: Path) -> None:
    first = make("setup", venv)
    assert first.returncode == 0, first.stderr
    calls = (venv / "pip-calls").read_text().splitlines()
    assert ["requirements/torch.txt" in call for call in calls] == [True, False, False]
    assert "requirements/serve.txt" in calls[1]
    assert all("requirements/constraints.txt" in call for call in calls[:2])
    assert "--editable ." in calls[2]
    assert "Installing torch" in first.stdout, "minutes without a word look like a hang"
    assert make("setup", venv).stdout.strip() == "make: Nothing to be done for 'setup'."
    assert len((venv / "pip-calls").read_text().splitlines()) == len(calls)


def test_setup_dev_adds_what_tests(venv: Path) -> None:
    assert make("setup-dev", venv).returncode == 0
    assert "requirements/dev.txt" in (venv / "pip-calls").read_text().splitlines()[-1]


def test_an_environment_that_could_not_be_made_is_not_taken_for_one_afterwards(
    tmp_path: Path,
) -> None:
    half = tmp_path / "python"  # as Debian's without python3-venv: it makes bin/python, then fails
    half.write_text(
        '#!/bin/bash\n[ "$1" = -c ] && exit 0\n'
        'mkdir -p "$3/bin"; touch "$3/bin/python"; chmod +x "$3/bin/python"; exit 1\n'
    )
    half.chmod(0o755)
    for _ in range(2):
        failed = make("setup", tmp_path / "venv", f"PYTHON={half}")
        assert failed.returncode != 0
        assert "apt-get install python3-venv" in failed.stdout


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    failed = make("setup", tmp_path / "venv", "PYTHON=false")
    assert failed.returncode != 0
    assert "Python 3.11 or newer is needed; name one with PYTHON=" in failed.stdout


def test_a_missing_haproxy_is_said_before_anything_is_installed(venv: Path, tmp_path: Path) -> None:
    # A user who is not root, on a machine without it: id and the search path say so.
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "env", "make", "grep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "id").write_text("#!/bin/bash\necho 1000\n")
    (programs / "id").chmod(0o755)
    failed = make("serve", venv, PATH=str(programs), HAPROXY_DIRS=str(tmp_path))
    assert failed.returncode != 0
    (line, *_) = failed.stderr.splitlines()
    assert line.startswith("HAProxy is missing. Install it: sudo apt-get install haproxy")
    assert not (venv / "pip-calls").exists()


def test_help_lists_every_target_that_is_for_people(venv: Path) -> None:
    listed = {line.split()[0] for line in make("help", venv).stdout.splitlines()}
    assert {"help", "serve", "test", "lint", "format", "bench", "clean"} <= listed


def test_ci_calls_make_test_and_then_tries_the_container(tmp_path: Path) -> None:
    (tmp_path / "make").write_text('#!/bin/bash\necho "make $*"\n')
    (tmp_path / "make").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI_WORKERS": "3"}
    ran = subprocess.run(
        [ROOT / ".ci" / "run"], env=environ, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "make test WORKERS=3\nmake test-container\n"
