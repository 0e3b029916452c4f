"""Images on their way through the vision tower, and the turns that wait for them.

             begin                   finish              acquired by who needs it
    pixels ──────────▶ in flight ──────────▶ fresh ──────────────────────────────▶ in use
                    (beside the steps)         │ by nobody in the next plan
                                               └────────────────────────────────▶ freeable

Features are accounted for from ``begin`` on, in use by the encoder, so that nothing drops them
before they are there. Nobody needs to want them any more by then: what was begun is finished, and
kept like all else. A turn that waits holds nothing, so no two turns wait for each other's images.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter

from vlm_sessions.engine.features import FeatureCache
from vlm_sessions.engine.pixels import PixelCache
from vlm_sessions.engine.sequence import Sequence
from vlm_sessions.engine.types import ImageSpan, PixelImage

_by_order = attrgetter("order")


class Encoding:
    """What the vision tower does. Not thread-safe.

    Args:
        max_images: in flight at the same moment. Few, so that an older turn that comes back for an
            image does not find a long line before it.
    """

    def __init__(self, features: FeatureCache, pixels: PixelCache, max_images: int) -> None:
        self.num_encoded = 0
        self._features = features
        self._pixels = pixels
        self._max_images = max_images
        self._in_flight: dict[str, int] = {}
        """digest -> tokens"""
        self._fresh: list[str] = []
        self._begun: list[PixelImage] = []
        self._line: list[Sequence] = []
        """Turns parked until features are there, by place, see ``rounds.py``."""
        self._is_closed = False
        """Whether somebody in this plan waits for room, that nobody younger may take."""

    @property
    def is_running(self) -> bool:
        return bool(self._in_flight)

    @property
    def has_work(self) -> bool:
        """Whether something is in flight, is to be begun, or has come and was not seen to."""
        return bool(self._in_flight or self._fresh or self._line)

    def is_ready(self, digest: str) -> bool:
        """Whether features are there to be used."""
        return digest in self._features and digest not in self._in_flight

    # --- while a plan is made -------------------------------------------------------------------

    def begin(self, sequence: Sequence, image: ImageSpan) -> bool:
        """Have an image encoded for a turn, if it is not there or under way; ``False``: not now."""
        if image.digest in self._features or self._features.is_stored(image.digest):
            return True
        if not self._has_room:
            return False
        pixels = self._pixels.get(image.digest)
        if pixels is None:
            return False
        if not self._features.try_add(image.digest, image.length):
            self._is_closed = True
            return False
        self._in_flight[image.digest] = image.length
        self._begun.append(pixels)
        self.num_encoded += 1
        sequence.num_encoded += 1
        sequence.encoded_for.add(image.digest)
        return True

    def begin_parked(self) -> None:
        """Begin what the parked turns wait for, the oldest first."""
        for sequence in self._line:
            for image in sequence.unready:
                if not self.begin(sequence, image):
                    break
            if not self._has_room:
                break

    def take_begun(self) -> tuple[PixelImage, ...]:
        """What this plan is to begin. Ends the plan: fresh features that it did not use become
        freeable."""
        begun, self._begun = tuple(self._begun), []
        fresh, self._fresh = self._fresh, []
        for digest in fresh:
            self._features.release(digest)
        self._is_closed = False
        return begun

    @property
    def _has_room(self) -> bool:
        return not self._is_closed and len(self._in_flight) < self._max_images

    # --- between plans --------------------------------------------------------------------------

    def park(self, sequence: Sequence, images: Iterable[ImageSpan]) -> None:
        """Let a turn wait for the first of ``images``; the others are begun ahead if there is
        room."""
        sequence.unready = tuple(images)
        insort(self._line, sequence, key=_by_order)

    def finish(self, digest: str) -> tuple[int, list[Sequence]]:
        """Features are there; returns their number of tokens, and the turns that waited."""
        num_tokens = self._in_flight.pop(digest)
        self._fresh.append(digest)
        woken = [each for each in self._line if each.unready[0].digest == digest]
        for sequence in woken:
            self.forget(sequence)
        return num_tokens, woken

    def forget(self, sequence: Sequence) -> None:
        """A turn waits no longer."""
        if sequence.unready:
            self._line.remove(sequence)
            sequence.unready = ()

    def check_integrity(self) -> None:
        """Assert that what is in flight is accounted for."""
        assert self._line == sorted(self._line, key=_by_order)
        assert all(sequence.unready for sequence in self._line)
        assert all(digest in self._features for digest in (*self._in_flight, *self._fresh))
        assert len(self._in_flight) <= self._max_images
        assert not self._begun, "what is begun leaves with its plan"

    def held(self) -> dict[str, int]:
        """digest -> how often the encoder holds it."""
        return dict.fromkeys((*self._in_flight, *self._fresh), 1)
