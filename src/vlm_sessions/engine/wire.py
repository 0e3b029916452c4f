"""Messages between an engine and its client, and how they travel through a socket.

    client ──Command──▶ engine      Submit, Cancel, Pixels, Release, Clear; Locate, Stats, Ping
           ◀──Reply───              Loaded | LoadFailed, then Events …, Located, StatsReply, Pong

Between threads the objects themselves travel. Between processes each is a frame: its length in
bytes as an unsigned 32-bit little-endian number, then the message as MessagePack. Both ends are of
one version, since one starts the other: there is no negotiation.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from vlm_sessions.engine.types import (
    CacheLocation,
    EngineInfo,
    EngineStats,
    Event,
    ImageSpan,
    PixelImage,
    Turn,
)

# --- client → engine ----------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag=True):
    turn: Turn


class Cancel(msgspec.Struct, frozen=True, tag=True):
    turn_id: str


class Pixels(msgspec.Struct, frozen=True, tag=True):
    """Answers ``PixelsNeeded``."""

    image: PixelImage


class Release(msgspec.Struct, frozen=True, tag=True):
    key: str


class Clear(msgspec.Struct, frozen=True, tag=True):
    pass


class Locate(msgspec.Struct, frozen=True, tag=True):
    """Answered by ``Located`` under the same ``ask_id``."""

    ask_id: int
    tokens: tuple[int, ...]
    images: tuple[ImageSpan, ...]
    salt: str = ""


class Stats(msgspec.Struct, frozen=True, tag=True):
    """Answered by ``StatsReply``."""

    ask_id: int


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Answered by ``Pong`` between two steps, and so a sign that steps still end."""

    ask_id: int


Command = Submit | Cancel | Pixels | Release | Clear | Locate | Stats | Ping

# --- engine → client ----------------------------------------------------------------------------


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The first reply: turns can be computed from now on."""

    info: EngineInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The only reply of an engine that could not load its model."""

    message: str


class Events(msgspec.Struct, frozen=True, tag=True):
    """What one step, or one command, gave."""

    events: tuple[Event, ...]


class Located(msgspec.Struct, frozen=True, tag=True):
    ask_id: int
    location: CacheLocation


class StatsReply(msgspec.Struct, frozen=True, tag=True):
    ask_id: int
    stats: EngineStats


class Pong(msgspec.Struct, frozen=True, tag=True):
    ask_id: int


Reply = Loaded | LoadFailed | Events | Located | StatsReply | Pong

# --- frames -------------------------------------------------------------------------------------

LENGTH = struct.Struct("<I")

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Command | Reply) -> bytes:
    """One message as a frame."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def decode_command(body: bytes) -> Command:
    """The message of a frame, its length left out.

    Raises:
        msgspec.DecodeError: not a command.
    """
    return _command_decoder.decode(body)


def decode_reply(body: bytes) -> Reply:
    """The message of a frame, its length left out.

    Raises:
        msgspec.DecodeError: not a reply.
    """
    return _reply_decoder.decode(body)


def receive_body(sock: socket.socket) -> bytes | None:
    """Read one frame from a blocking socket; ``None`` once the other end is closed."""
    head = _receive_exactly(sock, LENGTH.size)
    return None if head is None else _receive_exactly(sock, LENGTH.unpack(head)[0])


def _receive_exactly(sock: socket.socket, num_bytes: int) -> bytes | None:
    buffer = bytearray(num_bytes)
    view = memoryview(buffer)
    while view:
        try:
            num_read = sock.recv_into(view)
        except ConnectionError:
            return None
        if num_read == 0:
            return None
        view = view[num_read:]
    return bytes(buffer)
