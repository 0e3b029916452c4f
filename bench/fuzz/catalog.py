"""The targets by name: what is fed, and what it is to give.

dialects   protocol/dialects: any body under any headers      -> a command, or an error of its
stream     protocol/sse, eventstream: any text, cut anywhere   -> the client reads what was written
images     media/decode: real images, damaged                  -> a picture, or an error of its
headers    protocol/headers: any session, any Accept           -> an id that is one, or an error
service    the whole, over HTTP, by its OpenAPI document       -> what the document says, no 5xx
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.fuzz.target import Target
from bench.fuzz.targets.dialects import dialects_target
from bench.fuzz.targets.document import document_target
from bench.fuzz.targets.headers import headers_target
from bench.fuzz.targets.images import images_target
from bench.fuzz.targets.service import service_target
from bench.fuzz.targets.stream import stream_target

TARGETS: Mapping[str, Callable[[str], Target[Any]]] = {
    "dialects": lambda _: dialects_target(),
    "stream": lambda _: stream_target(),
    "images": lambda _: images_target(),
    "headers": lambda _: headers_target(),
    "service": service_target,
    "document": document_target,
}
"""Name -> the target, of a running service's URL."""
NEED_SERVICE = frozenset({"service", "document"})
