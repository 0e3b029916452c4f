"""The vision tower at work beside the steps, in a thread of its own.

    engine's thread    start ──────▶ step ─▶ step ─▶ step ──collect──▶ features, for the next plan
    encoder's thread     └─▶ decode pixels, tower, projector ──┘

torch lets go of Python's lock while it computes, so both advance. On a CPU the encoder's thread is
nicer than the engine's: with a core for both it gets a third of it while a step is computed, and
all of it while none is. On CUDA it launches to a stream of its own, of the lowest priority.

The thread lives as long as there are images, and computes them in the order in which they came;
those that wait go together, up to a limit. Which images there are, and for how long their features
are kept, is the scheduler's decision.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from vlm_sessions.engine.types import PixelImage

NICENESS = 4
"""Above the engine's: on a core that both want, Linux then gives the encoder 29 % of it."""
WAIT_SECONDS = 0.005
"""So long does an engine without anything else to do wait for an image, before it looks for new
commands again."""

Compute = Callable[[Sequence[PixelImage]], Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """Features ``[num_image_tokens, hidden_size]`` of an image, and what it took to make them."""

    digest: str
    features: torch.Tensor
    seconds: float
    """Its share of a batch: of processor time on a CPU, which does not count what it waited for the
    engine's thread; of real time on CUDA."""


class Encoder:
    """Computes features in the background. ``start`` and ``collect`` belong to one thread.

    Args:
        compute: features of some images, each with memory of its own; called in the thread.
        max_batch: images that are computed together, at most.
        num_threads: torch threads of the encoder's own; those of other threads stay as they are.
    """

    def __init__(
        self, compute: Compute, *, device: torch.device, max_batch: int, num_threads: int
    ) -> None:
        self._compute = compute
        self._device = device
        self._max_batch = max_batch
        self._num_threads = num_threads
        self._stream = _low_priority_stream(device) if device.type == "cuda" else None
        self._waiting: deque[PixelImage] = deque()
        self._lock = threading.Lock()
        """Over what waits, and whether there is a thread to see it."""
        self._has_thread = False
        self._done: queue.SimpleQueue[EncodedImage | Exception] = queue.SimpleQueue()

    @classmethod
    def beside_steps(cls, compute: Compute, device: torch.device) -> Encoder:
        """One for an engine whose thread calls this. On a CPU several images at once take as long
        as one after the other, so that the first would only wait for the last."""
        if device.type == "cuda":
            return cls(compute, device=device, max_batch=8, num_threads=1)
        num_threads = choose_num_threads(torch.get_num_threads())
        return cls(compute, device=device, max_batch=1, num_threads=num_threads)

    def start(self, images: Iterable[PixelImage]) -> None:
        """Have images computed after those that were begun already."""
        with self._lock:
            self._waiting.extend(images)
            if not self._waiting or self._has_thread:
                return
            self._has_thread = True
        threading.Thread(target=self._run, name="encoder", daemon=True).start()

    def collect(self, *, wait: bool) -> list[EncodedImage]:
        """What is done and was not collected yet, ready to be used by the caller's thread.

        Args:
            wait: for the first of them, but no longer than ``WAIT_SECONDS``.

        Raises:
            Exception: what ``compute`` raised. All that was begun is lost then.
        """
        done: list[EncodedImage] = []
        if not wait and self._done.empty():  # as in nearly all steps
            return done
        with contextlib.suppress(queue.Empty):
            if wait:
                done.append(self._take(WAIT_SECONDS))
            while True:
                done.append(self._take(None))
        return done

    def _take(self, seconds: float | None) -> EncodedImage:
        image = self._done.get_nowait() if seconds is None else self._done.get(timeout=seconds)
        if isinstance(image, Exception):
            raise image
        if self._stream is not None:
            # Made on another stream: when it is dropped, its memory must not go to the next image
            # while a step that reads it may still be running.
            image.features.record_stream(torch.cuda.current_stream(self._device))
        return image

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        _be_nice()
        torch.set_num_threads(self._num_threads)
        stream = (
            contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        )
        with torch.inference_mode(), stream:
            while batch := self._next_batch():
                try:
                    self._encode(batch)
                except Exception as exc:  # noqa: BLE001 - raised where it is collected
                    self._done.put(exc)

    def _next_batch(self) -> list[PixelImage]:
        """Images that waited; none: the thread is to end, and the next image starts another."""
        with self._lock:
            num_images = min(len(self._waiting), self._max_batch)
            self._has_thread = num_images > 0
            return [self._waiting.popleft() for _ in range(num_images)]

    def _encode(self, batch: Sequence[PixelImage]) -> None:
        clock = time.thread_time if self._stream is None else time.perf_counter
        started = clock()
        features = self._compute(batch)
        if self._stream is not None:
            self._stream.synchronize()
        total = sum(len(rows) for rows in features)
        seconds = clock() - started
        for image, rows in zip(batch, features, strict=True):
            self._done.put(EncodedImage(image.digest, rows, seconds * len(rows) / total))


def _low_priority_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device, priority=0)  # type: ignore[no-untyped-call]
    return stream


def choose_num_threads(num_engine_threads: int) -> int:
    """Torch threads for an encoder beside an engine of so many: on cores that the engine leaves,
    since teams that share cores wait for each other at every barrier."""
    num_left = len(os.sched_getaffinity(0)) - num_engine_threads
    return max(1, min(num_engine_threads, num_left))


def _be_nice() -> None:
    """Lower the calling thread's priority; threads that it starts inherit it. Only Linux has
    priorities of single threads, and a sandbox may forbid it: images are encoded all the same."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
