"""What can be seen of deploy/ without an engine: that its files speak of the same things."""

from __future__ import annotations

from typing import Any

import yaml

from tests.release.checkout import PROJECT

COMPOSE = PROJECT / "deploy" / "compose" / "compose.yaml"
PROMETHEUS = PROJECT / "deploy" / "prometheus" / "prometheus.yml"


def services() -> dict[str, Any]:
    found = yaml.safe_load(COMPOSE.read_text())["services"]
    assert isinstance(found, dict)
    return found


def test_prometheus_scrapes_every_replica_and_every_router() -> None:
    config = yaml.safe_load(PROMETHEUS.read_text())

    targets = {
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }

    assert targets == {f"{name}:8080" for name in services() if name != "prometheus"}


def test_every_router_is_told_of_all_replicas_and_of_the_other_router() -> None:
    addresses = {
        name: service["networks"]["sessions"]["ipv4_address"]
        for name, service in services().items()
        if name != "prometheus"
    }
    replicas = [address for name, address in addresses.items() if name.startswith("replica-")]

    for name, other in (("a", "b"), ("b", "a")):
        command = services()[f"router-{name}"]["command"]
        told = [word.removeprefix("--replica=") for word in command if "--replica=" in word]
        assert told == [f"{address}:8080" for address in replicas]
        assert f"--name={name}" in command
        assert f"--peer={other}={addresses[f'router-{other}']}:8100" in command


def test_addresses_are_told_apart_and_lie_outside_the_range_of_those_that_have_none() -> None:
    addresses = [
        service["networks"]["sessions"]["ipv4_address"]
        for name, service in services().items()
        if name != "prometheus"
    ]
    last_numbers = [int(address.rpartition(".")[2]) for address in addresses]

    assert len(set(addresses)) == len(addresses)
    assert max(last_numbers) < 128
