"""Devices: found by number or name, heard at any rate, and nothing captured is lost when one goes away."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr
import torch

from vivavoce.speech import audio, devices
from vivavoce.speech.devices import BLOCK, Loudspeaker, Microphone, find_device, list_devices
from vivavoce.speech.errors import MissingDependency, MissingDevice


class PortAudioError(Exception):
    pass


class FakeStream:
    """What sounddevice's streams do, by hand: `hear` is the hardware's next block, `unplug` its end."""

    def __init__(self, owner: FakeSoundDevice, device: int, channels: int, samplerate: int, blocksize: int, dtype: str,
                 callback: Callable[..., None] | None = None,
                 finished_callback: Callable[[], None] | None = None) -> None:  # fmt: skip
        if channels in owner.refused_channels or device in owner.busy:
            raise owner.PortAudioError("Device unavailable")
        self.device, self.channels, self.samplerate, self.blocksize = device, channels, samplerate, blocksize
        self.callback, self.finished = callback, finished_callback
        self.running = self.closed = self.gone = False
        self.latency = 0.05
        self.written: list[np.ndarray] = []
        self.asking = threading.Event()  # set: it asks for block after block
        self.thread: threading.Thread | None = None

    def hear(self, mono: np.ndarray) -> None:
        assert self.running
        assert self.callback
        self.callback(np.repeat(mono[:, None], self.channels, 1), len(mono), None, None)

    def ask(self, frames: int | None = None) -> np.ndarray:
        """The hardware wants more: what it is given, (frames,)."""
        assert self.callback
        out = np.full((frames or self.blocksize, self.channels), np.nan, np.float32)
        self.callback(out, len(out), None, None)
        self.written.append(out[:, 0])
        return out[:, 0]

    def ask_on(self) -> None:
        """As fast as it can, until it is stopped."""
        self.asking.set()
        self.thread = threading.Thread(target=self._ask_on)
        self.thread.start()

    def _ask_on(self) -> None:
        while self.asking.is_set():
            self.ask()

    def _quiet(self) -> None:
        self.asking.clear()
        if self.thread:
            self.thread.join(60)

    def unplug(self) -> None:
        self._quiet()
        self.gone = True
        if self.finished:
            self.finished()

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        if self.gone:
            raise PortAudioError("Stream is stopped")
        self._quiet()
        self.running = False
        if self.finished:
            self.finished()

    def abort(self) -> None:
        self._quiet()
        self.running = False

    def close(self) -> None:
        self.closed = True


class FakeSoundDevice:
    PortAudioError = PortAudioError

    def __init__(self) -> None:
        rows = [("HDMI", 0, 2, 48000), ("Webcam Mic", 1, 0, 44100), ("USB Headset", 2, 2, 48000), ("usb", 1, 0, 8000)]
        self.devices = [
            {"name": name, "max_input_channels": i, "max_output_channels": o, "default_samplerate": float(rate)}
            for name, i, o, rate in rows
        ]
        self.default = SimpleNamespace(device=(2, 0))
        self.refused_channels: set[int] = set()
        self.busy: set[int] = set()
        self.streams: list[FakeStream] = []

    def query_devices(self) -> list[dict[str, Any]]:
        return self.devices

    def InputStream(self, **options: Any) -> FakeStream:  # noqa: N802 - PortAudio's name
        self.streams.append(FakeStream(self, **options))
        return self.streams[-1]

    OutputStream = InputStream


@pytest.fixture
def sd(monkeypatch: pytest.MonkeyPatch) -> FakeSoundDevice:
    fake = FakeSoundDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def collect(microphone: Microphone, got: list[torch.Tensor]) -> None:
    for block in microphone:
        got.append(block)


@pytest.mark.usefixtures("sd")
def test_devices_are_listed_with_the_system_s_choice() -> None:
    assert [str(d) for d in list_devices()] == ["0: HDMI", "1: Webcam Mic", "2: USB Headset", "3: usb"]
    assert [d.name for d in list_devices() if d.default_input] == ["USB Headset"]
    assert list_devices()[1].rate == 44100


@pytest.mark.usefixtures("sd")
@pytest.mark.parametrize(("wanted", "index"), [(None, 2), (1, 1), ("1", 1), ("webcam", 1), ("USB", 3), ("headset", 2)])
def test_a_microphone_is_found_by_number_or_name(wanted: int | str | None, index: int) -> None:
    assert find_device("input", wanted).index == index


@pytest.mark.usefixtures("sd")
@pytest.mark.parametrize("wanted", ["bluetooth", 0, 99])
def test_a_missing_microphone_is_named_with_those_there_are(wanted: int | str) -> None:
    with pytest.raises(MissingDevice, match=rf"no microphone '?{wanted}'?; choose one of: 1: Webcam Mic; 2: USB Head"):
        Microphone(wanted)


def test_a_machine_without_microphones_says_so(sd: FakeSoundDevice) -> None:
    sd.devices = []
    with pytest.raises(MissingDevice, match="no microphone"):
        Microphone()


@pytest.mark.parametrize("error", [ImportError("No module named sounddevice"), OSError("PortAudio library not found")])
def test_without_portaudio_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Refuse:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(MissingDependency, match="libportaudio2"):
        Microphone()


def test_nothing_loads_portaudio_before_a_device_is_used() -> None:
    code = "import sys, vivavoce.speech.devices; sys.exit('sounddevice' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("device", "rate"), [(1, 44100), (2, 48000), (3, 8000)])
def test_a_microphone_of_any_rate_is_heard_at_16_khz_to_the_last_sample(
    sd: FakeSoundDevice, device: int, rate: int
) -> None:
    x = noise(rate)
    with Microphone(device) as microphone:
        assert (sd.streams[0].samplerate, sd.streams[0].device) == (rate, device)
        for start in range(0, len(x), 517):
            sd.streams[0].hear(x[start : start + 517])
        microphone.stop()
        got = torch.cat(list(microphone)).numpy()
    want = soxr.ResampleStream(rate, 16000, 1).resample_chunk(x, last=True).clip(-1, 1)
    assert got.dtype == np.float32
    assert np.array_equal(got, want)
    assert sd.streams[0].closed


def test_blocks_come_while_the_microphone_is_open(sd: FakeSoundDevice) -> None:
    with Microphone(2) as microphone:
        for _ in range(10):
            sd.streams[0].hear(noise(960))
        assert len(next(microphone)) > 0


def test_a_device_that_refuses_mono_is_opened_with_its_channels_and_averaged(sd: FakeSoundDevice) -> None:
    sd.refused_channels = {1}
    with Microphone(2, rate=48000) as microphone:
        stream = sd.streams[-1]
        assert stream.channels == 2
        assert stream.callback
        stream.callback(np.array([[0.5, 0.25], [1.0, 0.0]], np.float32), 2, None, None)
        assert next(microphone).tolist() == [0.375, 0.5]


def test_a_device_that_cannot_be_opened_is_named_with_the_others(sd: FakeSoundDevice) -> None:
    sd.busy = {1}
    with pytest.raises(MissingDevice, match=r"1: Webcam Mic cannot be opened \(Device unavailable\).*2: USB Headset"):
        Microphone(1).__enter__()


def test_unplugged_gives_what_was_captured_and_then_says_so(sd: FakeSoundDevice) -> None:
    x = noise(48000)
    got: list[torch.Tensor] = []
    with Microphone(2) as microphone:
        for start in range(0, len(x), 960):
            sd.streams[0].hear(x[start : start + 960])
        sd.streams[0].unplug()
        with pytest.raises(MissingDevice, match="2: USB Headset went away"):
            collect(microphone, got)
        assert list(microphone) == []  # said once
    assert len(torch.cat(got)) == 16000
    assert sd.streams[0].closed


def test_a_device_that_just_falls_silent_counts_as_gone(sd: FakeSoundDevice) -> None:
    got: list[torch.Tensor] = []
    with Microphone(2, stall=0.01) as microphone:
        sd.streams[0].hear(noise(4800))
        with pytest.raises(MissingDevice):
            collect(microphone, got)
    assert len(torch.cat(got)) == 1600


def test_a_slow_reader_loses_only_what_exceeds_the_bound_and_is_told(sd: FakeSoundDevice) -> None:
    with Microphone(2, hold=10 * BLOCK) as microphone:
        for _ in range(25):
            sd.streams[0].hear(noise(960))
        microphone.stop()
        assert len(torch.cat(list(microphone))) == 10 * 320
    assert microphone.dropped_seconds == pytest.approx(15 * BLOCK)


@pytest.mark.parametrize("rate", [24000, 16000])
def test_a_loudspeaker_plays_everything_at_its_own_rate(sd: FakeSoundDevice, rate: int) -> None:
    x = noise(rate)
    with Loudspeaker("headset", rate) as out:
        sd.streams[0].ask_on()
        for start in range(0, len(x), 700):
            out.play(torch.from_numpy(x[start : start + 700]))
    got = np.concatenate(sd.streams[0].written)
    want = soxr.ResampleStream(rate, 48000, 1).resample_chunk(x, last=True)
    assert np.array_equal(got[got != 0], want[want != 0])  # between them it was late, and the device got silence
    assert out.played == rate
    assert not sd.streams[0].running


def test_a_device_that_refuses_mono_plays_on_all_its_channels(sd: FakeSoundDevice) -> None:
    sd.refused_channels = {1}
    with Loudspeaker("headset", 48000) as out:
        stream = sd.streams[-1]
        out.play(np.array([0.5, 0.25], np.float32))
        given = np.full((3, 2), np.nan, np.float32)
        assert stream.callback
        stream.callback(given, 3, None, None)
        stream.ask_on()
    assert given.tolist() == [[0.5, 0.5], [0.25, 0.25], [0, 0]]


def test_a_stopped_loudspeaker_counts_only_what_was_heard(sd: FakeSoundDevice) -> None:
    with Loudspeaker("headset", 48000) as out:
        stream = sd.streams[0]
        out.play(noise(2880))
        assert not out.played
        assert [len(stream.ask()) for _ in range(2)] == [960, 960]
        assert out.played == 0  # it is all in the device: 50 ms
        stream.ask(1920)
        assert out.played == 960
        out.stop()
        assert out.played == 2880  # what it has will be heard
        out.play(noise(2000))
        stream.ask()
        out.stop()
        assert out.played == 3840
        assert not stream.ask().any()
        out.play(noise(480))
        stream.ask_on()
    assert out.played == 4320


def test_stop_frees_who_waits_for_the_device(sd: FakeSoundDevice) -> None:
    with Loudspeaker("headset", 48000) as out:
        playing = threading.Thread(target=out.play, args=[noise(48000)])
        playing.start()
        while not sd.streams[0].ask().any():  # until it has begun
            pass
        out.stop()
        playing.join(60)
        assert not playing.is_alive()
        sd.streams[0].ask_on()


def test_a_loudspeaker_that_goes_away_is_named(sd: FakeSoundDevice) -> None:
    def play() -> None:
        with Loudspeaker(2) as out:
            sd.streams[0].unplug()
            out.play(noise(24000))

    with pytest.raises(MissingDevice, match="2: USB Headset went away"):
        play()
    assert sd.streams[0].closed


@pytest.mark.usefixtures("sd")
def test_a_loudspeaker_that_just_stops_asking_counts_as_gone() -> None:
    with pytest.raises(MissingDevice, match="2: USB Headset went away"), Loudspeaker(2, stall=0.01) as out:
        out.play(noise(24000))


def test_a_stream_that_will_not_close_holds_nobody_up(sd: FakeSoundDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "STALL", 0.01)
    for_ever = threading.Event()
    with Microphone(2):
        sd.streams[0].stop = sd.streams[0].close = for_ever.wait  # type: ignore[assignment]
    for_ever.set()  # came back all the same


RECORD = """
import sys, threading, torch
from vivavoce.speech.devices import Microphone
from vivavoce.speech.errors import MissingDevice
blocks = []
try:
    with Microphone(sys.argv[2] if len(sys.argv) > 2 else None) as microphone:
        blocks.append(next(microphone))
        print("recording at", microphone.device.rate, flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), microphone.stop())).start()
        blocks.extend(microphone)
except MissingDevice as e:
    print(e, flush=True)
torch.save(torch.cat(blocks), sys.argv[1])
"""


def start_recording(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    recorder = subprocess.Popen([sys.executable, "-P", "-c", RECORD, *arguments], env=env, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert recorder.stdout
    line = recorder.stdout.readline()
    assert line.startswith("recording at"), line + str(recorder.communicate())
    return recorder


def test_a_real_microphone_hears_what_is_played(pulse: Any, tmp_path: Path) -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    audio.write(tmp_path / "tone.wav", tone, 16000)
    recorder = start_recording(pulse.env, str(tmp_path / "heard.pt"), "cable")
    pulse.play(tmp_path / "tone.wav")
    _, errors = recorder.communicate("", timeout=30)
    assert recorder.returncode == 0, errors
    heard = torch.load(tmp_path / "heard.pt")
    loud = heard.unfold(0, 160, 160).abs().amax(1) > 0.4
    assert 0.9 <= loud.sum() * 0.01 <= 1.1  # the whole second
    first = int(loud.nonzero()[0]) * 160 + 1600
    assert torch.fft.rfft(heard[first : first + 8000]).abs().argmax() == 500  # 1000 Hz


def test_a_real_microphone_that_goes_away_gives_what_it_had(pulse: Any, tmp_path: Path) -> None:
    recorder = start_recording(pulse.env, str(tmp_path / "heard.pt"))
    pulse.unplug()
    assert recorder.stdout
    assert "went away" in recorder.stdout.readline()
    recorder.communicate("", timeout=30)
    assert len(torch.load(tmp_path / "heard.pt")) > 0
