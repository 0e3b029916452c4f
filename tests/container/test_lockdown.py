"""What the container does without: a writable root, privileges, the network; and who may be it."""

from __future__ import annotations

import pytest

from tests.container.container import LOCKED_DOWN, Container, serving
from tests.container.image import Image
from tests.container.talk import ANSWER, Chat

_LISTENING = "0A"


def test_it_serves_as_an_unprivileged_user_without_capabilities(service: Container) -> None:
    assert service.execute("id", "-u").stdout.strip() == "10001"
    status = service.execute("cat", "/proc/1/status").stdout
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


def test_its_root_is_read_only_and_only_its_state_and_tmp_are_not(service: Container) -> None:
    places = "/ /etc /opt/vlm-sessions /var/log /run"
    script = f"for place in {places}; do touch $place/x 2>/dev/null && echo $place; done"
    assert service.execute("sh", "-c", script, user="0", check=False).stdout == ""
    service.execute("sh", "-c", "touch /tmp/x ~/x && rm /tmp/x ~/x")


def test_it_has_no_network_but_its_own_loopback(service: Container) -> None:
    script = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert service.execute("python3", "-c", script).stdout.strip() == "['lo']"


def test_its_memory_limit_is_in_force(service: Container) -> None:
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    limit = service.execute("sh", "-c", f"cat {files} 2>/dev/null", check=False).stdout
    assert int(limit) == 2 * 2**30


def test_nothing_but_the_edge_listens_beyond_loopback(service: Container) -> None:
    tables = service.execute("cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp").stdout
    rows = [line.split() for line in tables.splitlines() if ":" in line.split()[0]]
    listening = [row[1].split(":") for row in rows if row[3] == _LISTENING]
    beyond = [int(port, 16) for address, port in listening if not _is_loopback(address)]
    assert beyond == [8080]
    assert len(listening) > 1, "TorchServe's two gRPC ports are among them, on loopback"


def _is_loopback(address: str) -> bool:
    """As the kernel writes it: each 32-bit word in the machine's (little-endian) order."""
    ipv6_loopback = "0" * 24 + "01000000"
    return address == ipv6_loopback or (len(address) == 8 and address.endswith("7F"))


def test_torchserves_management_and_metrics_are_not_reachable(service: Container) -> None:
    ports = "[8081, 8082, 7070, 7071]"
    script = (
        f"import socket; print([p for p in {ports}"
        " if socket.socket().connect_ex(('127.0.0.1', p)) == 0])"
    )
    assert service.execute("python3", "-c", script).stdout.strip() == "[]"


@pytest.mark.parametrize("user", ["0", "4242"], ids=["root", "any-user-of-group-0"])
def test_it_serves_as_another_user_too_without_capabilities(image: Image, user: str) -> None:
    with serving(image, *LOCKED_DOWN, "--user", user) as container:
        assert container.execute("id", "-u").stdout.strip() == user
        assert Chat(container.url).ask() == ANSWER


def test_the_whole_of_it_fits_its_memory_limit(service: Container) -> None:
    share = service.engine.output(
        "stats", "--no-stream", "--format", "{{.MemPerc}}", service.identity
    )
    assert float(share.rstrip("%")) < 90
