"""What is in the image, and what is not."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.conftest import ROOT
from tests.container.container import Container
from tests.container.image import Image

_HOME = "opt/vlm-sessions/"
_TEXT_BYTES = 2**20


def test_its_labels_say_what_it_is(image: Image) -> None:
    labels = image.inspect()["Config"]["Labels"]
    oci = "org.opencontainers.image."
    assert labels[oci + "title"] == "vlm-sessions"
    assert labels[oci + "version"] == "1.2.3"
    assert labels[oci + "revision"] == "abcdef"
    assert labels[oci + "licenses"] == "Apache-2.0"
    capabilities = "com.amazonaws.sagemaker.capabilities."
    assert [name for name, value in labels.items() if capabilities in name and value == "true"] == [
        capabilities + "accept-bind-to-port"
    ]


def test_it_starts_the_way_sagemaker_starts_it(image: Image) -> None:
    config = image.inspect()["Config"]
    assert config["Entrypoint"] == ["vlm-sessions"], "exec form: SIGTERM reaches it"
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert list(config["Volumes"]) == ["/var/lib/vlm-sessions"]


def test_its_packages_are_those_that_are_pinned_and_no_others(service: Container) -> None:
    script = (
        "from importlib.metadata import distributions as all\n"
        "for d in all(): print(d.name.lower().replace('_', '-'), d.version.partition('+')[0])"
    )
    lines = service.execute("python3", "-c", script).stdout.splitlines()
    installed = dict(line.split() for line in lines)
    constraints = (ROOT / "requirements" / "constraints.txt").read_text().lower()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints.replace("_", "-"), re.MULTILINE))
    cuda = re.compile(r"nvidia-|cuda-|triton")
    ours = {name: version for name, version in installed.items() if not cuda.match(name)}
    del ours["vlm-sessions"]
    assert ours == {name: pinned.get(name) for name in ours}
    assert not set(ours) & {"pip", "pytest", "mypy", "ruff", "hypothesis", "openai", "matplotlib"}


def test_python_compiles_nothing_at_its_start(service: Container) -> None:
    # It could keep nothing on a read-only root, and would compile at every start.
    imports = "import vlm_sessions.cli.app, vlm_sessions.serve, vlm_sessions.build, transformers"
    told = service.execute("python3", "-v", "-c", imports).stderr
    assert "# code object from '/opt/vlm-sessions/" in told
    assert re.findall(r"# code object from '(/[^']+\.py)'", told) == []


@pytest.fixture(scope="module")
def members(image: Image) -> Iterator[dict[str, bytes]]:
    """Every file: path -> content of the small ones; a directory's path ends with a slash."""
    created = image.engine.output("create", image.name)
    command = [image.engine.client, "--host", image.engine.host, "export", created]
    found: dict[str, bytes] = {}
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            for member in archive:
                content = b""
                is_code = member.name.endswith((".py", ".pyc"))
                if member.isfile() and not is_code and member.size <= _TEXT_BYTES:
                    file = archive.extractfile(member)
                    content = file.read() if file else b""
                found[member.name + "/" * member.isdir()] = content
        yield found
    finally:
        image.engine.run("rm", "--volumes", created)


def test_nothing_is_left_of_the_build(members: dict[str, bytes]) -> None:
    places = ("mnt/", "root/", "run/secrets/", "var/cache/apt/", "var/lib/apt/lists/", "tmp/")
    left = [name for name in members if name.startswith(places) and not name.endswith("/")]
    dot_files = ["root/.bashrc", "root/.profile"]  # Debian's own
    assert [name for name in left if name not in dot_files] == []
    assert "etc/pip.conf" not in members


def test_there_are_no_tests_and_no_sources_beside_what_is_installed(
    members: dict[str, bytes],
) -> None:
    ours = {name for name in members if name.startswith(_HOME)}
    assert {name.removeprefix(_HOME).split("/")[0] for name in ours} == {
        *("", "healthcheck.py", "model_store", "venv")
    }
    assert not [name for name in ours if "vlm_sessions/" in name and "/tests/" in name]


def test_nothing_in_it_tells_of_the_machine_that_built_it(
    image: Image, members: dict[str, bytes]
) -> None:
    traces = [str(ROOT).encode(), b"/run/secrets/pipconf", b"/run/secrets/ca"]
    secrets = [part.partition("src=")[2] for part in image.build_arguments if "pipconf" in part]
    for config in secrets:
        for line in Path(config).read_text().splitlines():
            traces += [word.encode() for word in line.partition("= ")[2].split() if "://" in word]
    ours = {name: content for name, content in members.items() if name.startswith((_HOME, "etc/"))}
    assert not [name for name, content in ours.items() if any(trace in content for trace in traces)]
    history = image.engine.output("history", "--no-trunc", image.name).encode()
    assert not [trace for trace in traces if trace in history]
