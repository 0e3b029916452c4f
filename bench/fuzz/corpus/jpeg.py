"""JPEGs taken apart and put together otherwise."""

from __future__ import annotations

from dataclasses import dataclass

SOS, EOI, APP1, APP2, APP14, COMMENT = 0xDA, 0xD9, 0xE1, 0xE2, 0xEE, 0xFE


@dataclass(frozen=True, slots=True)
class Segment:
    kind: int
    start: int
    end: int
    """Behind the data of a scan, too."""


def segments(content: bytes) -> list[Segment]:
    """Of a well-formed file, without SOI and EOI."""
    found, position = [], 2
    while content[position + 1] != EOI:
        start, kind = position, content[position + 1]
        position += 2 + int.from_bytes(content[position + 2 : position + 4])
        if kind == SOS:
            while content[position] != 0xFF or content[position + 1] in (0, *range(0xD0, 0xD8)):
                position += 1
        found.append(Segment(kind, start, position))
    return found


def segment(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(data) + 2).to_bytes(2) + data


def put_in(content: bytes, inserted: bytes) -> bytes:
    """``content`` with more segments behind its SOI."""
    return content[:2] + inserted + content[2:]


def without(content: bytes, kind: int) -> bytes:
    """``content`` without its segments of a kind."""
    for found in reversed(segments(content)):
        if found.kind == kind:
            content = content[: found.start] + content[found.end :]
    return content


def with_more_scans(content: bytes, num_more: int) -> bytes:
    """A progressive file with its last scan so many times more."""
    last = [found for found in segments(content) if found.kind == SOS][-1]
    return content[: last.end] + content[last.start : last.end] * num_more + content[last.end :]
