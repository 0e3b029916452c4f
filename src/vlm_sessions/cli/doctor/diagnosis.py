"""The checks, in the order in which a person would put things right."""

from __future__ import annotations

from vlm_sessions.cli.doctor import machine, packages
from vlm_sessions.cli.doctor.finding import Finding
from vlm_sessions.config import Settings


def diagnose(settings: Settings) -> list[Finding]:
    """One finding for each thing that serving needs."""
    return [
        packages.python(),
        packages.torch(settings.device),
        packages.transformers(),
        machine.kernels(),
        packages.torchserve(),
        machine.java(),
        machine.haproxy(),
        machine.model(settings),
        machine.port(settings),
        machine.api_keys(settings),
        machine.state_dir(settings),
        machine.memory(),
    ]
