"""Microphone and loudspeaker, through PortAudio.

A microphone gives float32 mono at the caller's rate, whatever rate the device has; it feeds `listen`. A loudspeaker
takes the same. PortAudio is loaded only when one of them (or the list) is asked for.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from .audio import RateConverter, Samples, check
from .errors import MissingDependency, MissingDevice

Kind = Literal["input", "output"]
BLOCK = 0.02  # seconds a device hands over at once
HOLD = 0.06  # seconds of sound that wait for a loudspeaker to ask for them
STALL = 5.0  # seconds without a block after which a running device counts as gone


@dataclass(frozen=True)
class Device:
    """One device as PortAudio sees it: its number, name, channels in and out, own rate in Hz, whether it is the
    system's choice for input or output."""

    index: int
    name: str
    inputs: int
    outputs: int
    rate: int
    default_input: bool
    default_output: bool

    def __str__(self) -> str:
        return f"{self.index}: {self.name}"


def list_devices() -> list[Device]:
    """Every device, in PortAudio's order. Raises MissingDependency without PortAudio."""
    sd = _portaudio()
    default_in, default_out = sd.default.device[0], sd.default.device[1]
    return [
        Device(i, str(d["name"]), d["max_input_channels"], d["max_output_channels"], round(d["default_samplerate"]),
               i == default_in, i == default_out)
        for i, d in enumerate(sd.query_devices())
    ]  # fmt: skip


def find_device(kind: Kind, wanted: int | str | None = None) -> Device:
    """The device by number, by name or part of a name (any case; the first that fits), or the system's choice.

    Raises MissingDevice, listing what there is, when none fits; MissingDependency without PortAudio.
    """
    usable = [d for d in list_devices() if (d.inputs if kind == "input" else d.outputs)]
    what = "microphone" if kind == "input" else "loudspeaker"
    if not usable:
        raise MissingDevice(f"this machine has no {what}; plug one in, or start the sound server")
    if wanted is None:
        return next((d for d in usable if (d.default_input if kind == "input" else d.default_output)), usable[0])
    text = str(wanted).strip().lower()
    tests = (lambda d: str(d.index) == text, lambda d: d.name.lower() == text, lambda d: text in d.name.lower())
    for fits in tests:
        if found := [d for d in usable if fits(d)]:
            return found[0]
    raise MissingDevice(f"no {what} {wanted!r}; choose one of: {'; '.join(map(str, usable))}")


class Microphone:
    """`with Microphone() as microphone: for block in microphone: ...`, block being (samples,) float32 at `rate`.

    device: number, name or part of a name; None is the system's choice. `stop()` (from any thread, or after Ctrl-C
    broke the loop) ends the recording; iterating again then gives what was captured before, the last sample included.
    When the device goes away, everything captured comes first, then MissingDevice. Up to `hold` seconds wait for a
    slow reader; what comes beyond is dropped and counted in `dropped_seconds`.

    Raises MissingDevice when there is none such or it cannot be opened; MissingDependency without PortAudio.
    """

    def __init__(
        self, device: int | str | None = None, rate: int = 16000, *, hold: float = 60.0, stall: float = STALL
    ) -> None:
        self.device = find_device("input", device)
        self.rate = rate
        self.dropped_seconds = 0.0
        self._stall = stall
        self._most = max(1, round(hold / BLOCK))
        self._convert = RateConverter(self.device.rate, rate)
        self._captured: queue.SimpleQueue[Samples | None] = queue.SimpleQueue()  # None: the device has ended
        self._stopping = self._ended = self._told = False
        self._lock = threading.Lock()  # PortAudio must not stop and close at once
        self._stream: Any = None

    def __enter__(self) -> Self:
        self._stream = _open_stream(
            "InputStream", self.device, self.device.inputs,
            callback=self._capture, finished_callback=lambda: self._captured.put(None),
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        _settle(self._stream.close)

    def stop(self) -> None:
        """End the recording; may be called twice."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                _settle(self._stream.stop)
                self._captured.put(None)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        while not self._ended:
            block = self._next_captured()
            self._ended = block is None
            x = self._convert.push(np.zeros(0, np.float32) if block is None else block, last=self._ended)
            if len(x):
                return torch.from_numpy(np.clip(x, -1, 1))
        if self._stopping or self._told:
            raise StopIteration
        self._told = True
        raise MissingDevice(f"the microphone {self.device} went away; plug it in again and start over")

    def _next_captured(self) -> Samples | None:
        try:
            return self._captured.get(timeout=self._stall)
        except queue.Empty:  # some systems just stop calling
            return None

    def _capture(self, frames: Samples, count: int, time: object, status: object) -> None:
        """On PortAudio's own thread: copy and leave."""
        if self._captured.qsize() >= self._most:
            self.dropped_seconds += count / self.device.rate
        else:
            self._captured.put(frames.mean(axis=1, dtype=np.float32))


class Loudspeaker:
    """`with Loudspeaker(rate=24000) as out: out.play(pcm)`; leaving it waits until all is heard.

    `play` returns when little of it is left to give to the device, so a fast producer is slowed to real time. `stop()`,
    from any thread, throws that away: what the device itself holds, its latency, is still heard. `played` says how many
    samples at `rate` were heard, for an interrupted reply. The device is never without sound, it gets silence where
    there is none: PortAudio's blocking writes hang for ever on some systems (ALSA over PulseAudio) once they are late.
    Raises as Microphone.
    """

    def __init__(self, device: int | str | None = None, rate: int = 24000, *, stall: float = STALL) -> None:
        self.device = find_device("output", device)
        self.rate = rate
        self._stall = stall
        self._convert = RateConverter(rate, self.device.rate)
        self._more = threading.Condition()
        self._queue = np.zeros(0, np.float32)  # for the device, at its rate
        self._given = self._stops = 0  # given: frames of ours that the device took
        self._recent: deque[tuple[int, int]] = deque()  # what it took last, and how much of that was ours
        self._ended = False
        self._stream: Any = None

    def __enter__(self) -> Self:
        self._stream = _open_stream(
            "OutputStream", self.device, self.device.outputs, callback=self._fill, finished_callback=self._finished
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if e is None:
                self._put(self._convert.push(np.zeros(0, np.float32), last=True))
                with self._more:
                    self._wait(lambda: not len(self._queue) and not self._unheard)
        finally:
            _settle(self._stream.stop if e is None else self._stream.abort)
            _settle(self._stream.close)

    def play(self, pcm: Tensor | Samples) -> None:
        """(samples,) float or int16 mono at `rate`. Raises BadAudio, and MissingDevice when the device went away."""
        self._put(self._convert.push(check(pcm, "the audio to play").cpu().numpy()))

    def stop(self) -> None:
        """Throw away what the device has not taken; what is played afterwards starts afresh."""
        with self._more:
            self._stops += 1
            self._queue = self._queue[:0]
            self._recent.clear()  # what it holds will be heard, and so counts
            self._convert = RateConverter(self.rate, self.device.rate)
            self._more.notify_all()

    @property
    def played(self) -> int:
        """Samples at `rate` that were heard, give or take a block."""
        with self._more:
            return max(0, round((self._given - self._unheard) * self.rate / self.device.rate))

    @property
    def _unheard(self) -> int:
        return sum(ours for _, ours in self._recent)

    def _put(self, x: Samples) -> None:
        with self._more:
            stops, hold = self._stops, round(HOLD * self.device.rate)
            self._queue = np.concatenate([self._queue, x])
            self._wait(lambda: len(self._queue) <= hold or self._stops != stops)

    def _wait(self, done: Callable[[], bool]) -> None:
        """Until then, while the device keeps asking. Raises MissingDevice when it does not."""
        while not done():
            if self._ended or not self._more.wait(self._stall):
                raise MissingDevice(f"the loudspeaker {self.device} went away; plug it in again")

    def _fill(self, out: Samples, count: int, time: object, status: object) -> None:
        """On PortAudio's own thread: so many frames are wanted now."""
        with self._more:
            ours, self._queue = self._queue[:count], self._queue[count:]
            out[: len(ours)], out[len(ours) :] = ours[:, None], 0
            self._given += len(ours)
            self._recent.append((count, len(ours)))
            latency = self._stream.latency * self.device.rate if self._stream else 0
            while self._recent and sum(n for n, _ in self._recent) - self._recent[0][0] >= latency:
                self._recent.popleft()
            self._more.notify_all()

    def _finished(self) -> None:
        with self._more:
            self._ended = True
            self._more.notify_all()


def _open_stream(cls: str, device: Device, channels: int, **callbacks: object) -> Any:
    """A started stream at the device's own rate; mono, or with all its channels where it refuses mono."""
    sd = _portaudio()
    fault: Exception | None = None
    for n in dict.fromkeys((1, channels)):
        try:
            stream = getattr(sd, cls)(
                samplerate=device.rate, blocksize=round(BLOCK * device.rate), device=device.index, channels=n,
                dtype="float32", **callbacks,
            )  # fmt: skip
            stream.start()
        except sd.PortAudioError as e:
            fault = e
        else:
            return stream
    others = "; ".join(str(d) for d in list_devices() if d.index != device.index) or "there is none"
    raise MissingDevice(
        f"{device} cannot be opened ({fault}); end the program that has it, or choose another: {others}"
    )


def _settle(act: Callable[[], object]) -> None:
    """Stop or close a stream whose device may be gone: its error is no news by then, and where PortAudio waits for a
    dead device for ever (ALSA over a sound server that was killed) we do not."""

    def quietly() -> None:
        with suppress(_portaudio().PortAudioError):
            act()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(STALL)


def _portaudio() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as e:  # OSError: the package is there, PortAudio is not
        raise MissingDependency(
            "microphones and loudspeakers need PortAudio; install it (Debian: apt install "
            "libportaudio2; macOS: brew install portaudio) and pip install sounddevice"
        ) from e
    return sounddevice
