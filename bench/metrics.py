"""What a service under test says of itself."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 10.0


async def read_metrics(url: str) -> dict[str, float]:
    """A service's metrics; of those with labels ``name{value}``."""
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as http:
        text = (await http.get(f"{url}/metrics")).text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
