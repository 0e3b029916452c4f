"""The README's page about the container: each of its blocks is run, in order, as it stands there.

The blocks for a shell that the service's own tests run are marked bash; those with docker, sh. A
stand-in for docker, first on the path, gives names of the tests' own to image, containers and
volumes, this machine's settings to a build, and no network to a container.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.container.conftest import ROOT
from tests.container.container import Container
from tests.container.forward import forwarding
from tests.container.image import Image
from tests.docs.blocks import Block, read_blocks

BLOCKS = [block for block in read_blocks(ROOT / "README.md") if block.language == "sh"]
BLOCK_SECONDS = 200.0
_NAMES = {
    "vlm": "vlm-readme",
    "vlm-locked": "vlm-readme-locked",
    "vlm-state": "vlm-readme-state",
    "vlm-state-locked": "vlm-readme-state-locked",
    "vlm-sessions": "vlm-sessions:test-readme",
    "vlm-sessions:latest": "vlm-sessions:test-readme",
}
"""A name on the page -> that of the tests."""
_CONTAINERS = {8080: "vlm-readme", 8081: "vlm-readme-locked"}
"""The port that the page publishes -> whose it is."""
_STAND_IN = """\
#!%(python)s
import json, os, sys
names, more = json.loads(%(names)r), json.loads(%(more)r)
verb, *arguments = sys.argv[1:]
def renamed(argument):
    name, colon, rest = argument.partition(":")
    if argument in names:
        return names[argument]
    return names.get(name, name) + colon + rest if rest.startswith("/") else argument
command = [verb, *more.get(verb, []), *map(renamed, arguments)]
os.execv(%(client)r, [%(client)r, *command])
"""


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs what the page says."""

    environ: dict[str, str]
    addresses: dict[str, str]
    """An address on the page -> where it leads here."""

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        for said, here in self.addresses.items():
            code = code.replace(said, here)
        default = self.addresses["127.0.0.1:8080"]
        code = code.replace("vlm-sessions ask", f"vlm-sessions ask --url http://{default}")
        code = code.replace(".venv/bin/", f"{sys.prefix}/bin/")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=BLOCK_SECONDS,
        )


@pytest.fixture(scope="module")
def shell(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell whose docker is the stand-in; what the page has made is removed in the end."""
    engine = image.engine
    stand_in = tmp_path_factory.mktemp("bin") / "docker"
    more = {
        "build": list(image.build_arguments),
        "run": ["--network=none", "--env=VLM_THREADS=1", "--env=VLM_KV_CACHE_MB=64"],
    }
    stand_in.write_text(
        _STAND_IN
        % {
            "python": sys.executable,
            "client": engine.client,
            "names": json.dumps(_NAMES),
            "more": json.dumps(more),
        }
    )
    stand_in.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    path = f"{stand_in.parent}:{kept['PATH']}"
    with ExitStack() as stack:
        addresses = {}
        for port, name in _CONTAINERS.items():
            container = Container(engine, name, 8080)
            forwarded = stack.enter_context(forwarding(container.connect))
            addresses[f"127.0.0.1:{port}"] = f"127.0.0.1:{forwarded}"
        yield Shell({**kept, **engine.environ, "PATH": path}, addresses)
        for name in _CONTAINERS.values():
            engine.run("rm", "--force", name, check=False)
        engine.run("volume", "rm", "vlm-readme-state", "vlm-readme-state-locked", check=False)
        engine.run("rmi", "vlm-sessions:test-readme", check=False)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}")
def test_a_block_about_the_container_does_what_it_says(block: Block, shell: Shell) -> None:
    ran = shell.run(block.code)
    assert ran.returncode == 0, ran.stderr
    # Docker prints the id of each container that it starts.
    shown = "\n".join(line for line in ran.stdout.splitlines() if len(line) != 64)
    assert block.prints(shown), f"the page says:\n{block.output}\nit was:\n{ran.stdout}"


def test_the_containers_of_the_page_serve_in_the_end(shell: Shell) -> None:
    for address in shell.addresses.values():
        curl = f"curl -sf --retry 60 --retry-delay 1 --retry-all-errors http://{address}/ping"
        assert '"status":"Healthy"' in shell.run(curl).stdout


def test_the_page_has_its_blocks() -> None:
    commands = "".join(block.code for block in BLOCKS)
    assert len(BLOCKS) >= 4
    for part in ("make image", "docker run", "docker stop", "--read-only", "/opt/ml/model"):
        assert part in commands
