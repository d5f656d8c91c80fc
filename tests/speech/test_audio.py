"""Audio files: any rate, channels and container give the same sound; what cannot be heard is named with its cure."""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from vivavoce.speech import audio
from vivavoce.speech.errors import BadAudio, MissingDependency

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (8000, 1), (22050, 2), (44100, 1), (48000, 6), (96000, 2)])
def test_any_rate_and_channel_count_gives_the_same_tone(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.repeat(tone(rate)[:, None], channels, 1), rate, subtype="FLOAT")
    x = audio.read(tmp_path / "a.wav")
    assert x.dtype == torch.float32
    assert x.shape == (16000,)
    assert (x - torch.from_numpy(tone(16000)))[200:-200].abs().max() < 1e-3  # the filter rings at the two ends
    assert audio.info(tmp_path / "a.wav") == audio.Info(rate, channels, 1.0)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, -0.25], [0.0, 1.0]]), 16000, subtype="FLOAT")
    assert audio.read(tmp_path / "a.wav").tolist() == [0.125, 0.5]


@pytest.mark.parametrize("seconds", [0.00001, 0.02, 0.7, 60.0])
@pytest.mark.parametrize("rate", [44100, 16000])
def test_blocks_are_the_samples_of_read(tmp_path: Path, rate: int, seconds: float) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 55555 if seconds > 0.001 else 100).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    got = list(audio.blocks(tmp_path / "a.wav", seconds=seconds))
    assert {len(b) for b in got[:-1]} <= {max(1, round(seconds * 16000))}
    assert 0 < len(got[-1]) <= max(1, round(seconds * 16000))
    assert torch.equal(torch.cat(got), audio.read(tmp_path / "a.wav"))


def test_read_equals_soxr_in_one_shot(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 70001).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 44100, subtype="FLOAT")
    whole = soxr.ResampleStream(44100, 16000, 1).resample_chunk(noise, last=True)
    assert np.array_equal(audio.read(tmp_path / "a.wav").numpy(), whole)


def test_a_long_file_takes_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"  # 1 h at 16 kHz: 230 MB as float32
    with soundfile.SoundFile(path, "w", 16000, 1) as f:
        minute = np.zeros(16000 * 60, np.float32)
        for _ in range(60):
            f.write(minute)
    stream = audio.blocks(path)
    total = len(next(stream))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total += sum(len(b) for b in stream)
    assert total == 16000 * 3600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.05), ("a.OPUS", 0.1),
                                                 ("a.mp3", 0.05)])  # fmt: skip
def test_what_is_written_reads_back(tmp_path: Path, name: str, tolerance: float) -> None:
    x = torch.from_numpy(tone(16000, 3.0))
    audio.write(tmp_path / name, x, 16000)
    y = audio.read(tmp_path / name)
    assert abs(len(y) - len(x)) <= 2
    assert (x - y[: len(x)])[1600:-1600].abs().max() < tolerance


def test_a_writer_appends_and_clips(tmp_path: Path) -> None:
    with audio.Writer(tmp_path / "a.wav", 16000) as out:
        out.write(torch.full((10,), 1.5))
        out.write(torch.full((5,), -0.5))
    x = audio.read(tmp_path / "a.wav")
    assert len(x) == 15
    assert x[0] > 0.999
    assert x[-1] == -0.5


@pytest.mark.parametrize("name", ["a.xyz", "a", "no/folder/a.wav"])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadAudio, match=Path(name).name):
        audio.write(tmp_path / name, torch.zeros(10), 16000)


def test_a_rate_opus_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match="44100"):
        audio.write(tmp_path / "a.opus", torch.zeros(10), 44100)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "-a.mka"])
def test_other_containers_come_through_ffmpeg(tmp_path: Path, name: str) -> None:
    audio.write(tmp_path / "in.wav", torch.from_numpy(tone(16000, 2.0)), 16000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "in.wav", "-ac", "2", tmp_path / name], check=True)
    x = audio.read(tmp_path / name)
    assert abs(len(x) - 32000) < 2048  # AAC pads whole frames
    power = torch.fft.rfft(x[8000:24000]).abs()
    assert power.argmax() == 440
    assert audio.info(tmp_path / name).channels == 2
    assert abs(audio.info(tmp_path / name).seconds - 2) < 0.1
    assert torch.equal(torch.cat(list(audio.blocks(tmp_path / name, seconds=0.1))), x)


@needs_ffmpeg
def test_a_container_without_a_duration_is_measured(tmp_path: Path) -> None:
    audio.write(tmp_path / "in.wav", torch.from_numpy(tone(16000)), 16000)
    with (tmp_path / "a.webm").open("wb") as f:  # to a pipe, as a browser records: no duration in the header
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "in.wav", "-f", "webm", "-"], stdout=f, check=True)
    assert abs(audio.info(tmp_path / "a.webm").seconds - 1) < 0.1


@needs_ffmpeg
def test_leaving_a_file_early_ends_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    audio.write(tmp_path / "in.wav", torch.zeros(16000 * 60), 16000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "in.wav", tmp_path / "a.m4a"], check=True)
    stream = audio.blocks(tmp_path / "a.m4a", seconds=0.1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert started
    assert all(p.poll() is not None for p in started)


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_its_files_name_it(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\0\0isommp42")
    with pytest.raises(MissingDependency, match=r"a\.m4a needs ffmpeg"):
        audio.read(tmp_path / "a.m4a")


BAD = {
    "notes.wav": b"hello, this is text\n" * 50,
    "empty.wav": b"",
    "cut.wav": b"RIFF\x00\x00\x00\x00WAVEfmt ",
    "noise.bin": np.random.default_rng(0).bytes(3000),
    "zeros.raw": bytes(3000),
}


@pytest.mark.parametrize("ffmpeg", [pytest.param(True, marks=needs_ffmpeg), False])
@pytest.mark.parametrize("name", BAD)
def test_what_is_not_audio_is_named(tmp_path: Path, request: pytest.FixtureRequest, name: str, ffmpeg: bool) -> None:
    if not ffmpeg:
        request.getfixturevalue("no_ffmpeg")
    (tmp_path / name).write_bytes(BAD[name])
    for use in (audio.read, audio.info, lambda path: list(audio.blocks(path))):
        with pytest.raises(BadAudio, match=name):
            use(tmp_path / name)


def test_zero_samples_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(BadAudio, match=r"none\.wav"):
        audio.read(tmp_path / "none.wav")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match=r"gone\.wav does not exist"):
        audio.read(tmp_path / "gone.wav")
    with pytest.raises(BadAudio, match="is a folder"):
        audio.read(tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")  # as root, chmod would not

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadAudio, match=r"a\.wav cannot be read \(Permission denied\)"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named_with_their_place(tmp_path: Path, value: float) -> None:
    x = np.zeros(80000, np.float32)
    x[70000] = value
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    with pytest.raises(BadAudio, match=r"a\.wav holds NaN or infinite samples near 4\.1 s"):
        audio.read(tmp_path / "a.wav")


def test_a_flac_that_does_not_say_its_length_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])  # the samples in all: 36 bits, 0 where a stream was written
    (tmp_path / "stream.flac").write_bytes(flac)
    assert torch.equal(audio.read(tmp_path / "stream.flac"), audio.read(tmp_path / "a.flac"))
    assert audio.info(tmp_path / "stream.flac") == audio.Info(16000, 1, 1.0)
    assert caplog.text == ""


def test_a_wav_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", torch.from_numpy(tone(16000)), 16000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: 44 + 2 * 5000 + 1])
    assert torch.equal(audio.read(tmp_path / "cut.wav"), audio.read(tmp_path / "a.wav")[:5000])
    (tmp_path / "piped.wav").write_bytes(whole[:40] + b"\xff" * 4 + whole[44:])  # written to a pipe: size unknown
    assert torch.equal(audio.read(tmp_path / "piped.wav"), audio.read(tmp_path / "a.wav"))


@pytest.mark.parametrize("ffmpeg", [pytest.param(True, marks=needs_ffmpeg), False])
@pytest.mark.parametrize("ending", ["flac", "mp3", "ogg"])
def test_other_files_cut_short_give_what_is_there(
    tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, ending: str, ffmpeg: bool
) -> None:
    if not ffmpeg:
        request.getfixturevalue("no_ffmpeg")
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, 160000).astype(np.float32)
    audio.write(tmp_path / f"a.{ending}", torch.from_numpy(noise), 16000)
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        x = audio.read(tmp_path / f"cut.{ending}")
    assert 0.5 * len(noise) < len(x) < 0.75 * len(noise)
    same = len(x) - 16000
    assert torch.equal(x[:same], audio.read(tmp_path / f"a.{ending}")[:same])
    assert ("damaged or cut off" in caplog.text) == (ending != "ogg")  # which does not say how long it was
    assert all(f"cut.{ending}" in record.getMessage() for record in caplog.records)


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["m4a", "mka", "aac"])
def test_a_container_cut_short_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str) -> None:
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, 160000).astype(np.float32)
    audio.write(tmp_path / "in.wav", torch.from_numpy(noise), 16000)
    whole = tmp_path / f"a.{ending}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "in.wav",
                    *(["-movflags", "faststart"] if ending == "m4a" else []), whole], check=True)  # fmt: skip
    (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with caplog.at_level(logging.WARNING):
        audio.read(whole)
        assert not caplog.records
        x = audio.read(tmp_path / f"cut.{ending}")
    assert 0.5 * len(noise) < len(x) < 0.75 * len(noise)
    assert f"cut.{ending} is damaged or cut off (ffmpeg: " in caplog.text


@needs_ffmpeg
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("title", ["", "long " * 60000])
def test_mp3s_are_read_to_their_end(tmp_path: Path, caplog: pytest.LogCaptureFixture, counted: bool,
                                    title: str) -> None:  # fmt: skip
    # dense frames first: a length guessed from them is far too short
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, 64000).astype(np.float32)
    audio.write(tmp_path / "in.wav", torch.from_numpy(np.append(noise, np.zeros(400000, np.float32))), 16000)
    (tmp_path / "title").write_text(f";FFMETADATA1\ntitle={title}\n")
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "in.wav", "-i", tmp_path / "title", "-map_metadata", "1",
                    "-q:a", "5", "-write_xing", str(int(counted)), tmp_path / "a.mp3"], check=True)  # fmt: skip
    whole = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(whole[: len(title) + (len(whole) - len(title)) // 2])
    with caplog.at_level(logging.WARNING):
        assert abs(len(audio.read(tmp_path / "a.mp3")) - 464000) < 2000
        assert abs(audio.info(tmp_path / "a.mp3").seconds - 29) < 0.2
        assert not caplog.records
        assert 64000 < len(audio.read(tmp_path / "cut.mp3")) < 400000
    assert "cut.mp3 is damaged or cut off" in caplog.text


def test_leaving_an_mp3_early_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio.write(tmp_path / "a.mp3", torch.zeros(16000 * 240), 16000)
    monkeypatch.setattr(audio, "_mp3_begin", lambda path: audio._Begin(0, False))
    threads = set(threading.enumerate())
    stream = audio.blocks(tmp_path / "a.mp3", seconds=1)
    next(stream)
    fed = set(threading.enumerate()) - threads
    stream.close()  # type: ignore[attr-defined]
    for thread in fed:
        thread.join(10)
        assert not thread.is_alive()


def test_what_came_before_a_fault_is_given_first(tmp_path: Path) -> None:
    x = np.full(16000 * 9, 0.25, np.float32)
    x[-100] = np.nan
    soundfile.write(tmp_path / "a.wav", x, 16000, subtype="FLOAT")
    stream = audio.blocks(tmp_path / "a.wav", seconds=30)
    assert len(next(stream)) > 16000 * 7
    with pytest.raises(BadAudio, match="NaN"):
        next(stream)


def test_clipping_audio_stays_in_range(tmp_path: Path) -> None:
    square = np.sign(tone(44100)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", square * 1.5, 44100, subtype="FLOAT")
    x = audio.read(tmp_path / "a.wav")
    assert x.abs().max() == 1.0


def test_pushed_arrays_become_float32_in_range() -> None:
    assert audio.check(np.array([0, 16384, -32768], np.int16)).tolist() == [0.0, 0.5, -1.0]
    assert audio.check(torch.tensor([2**30], dtype=torch.int32)).tolist() == [0.5]
    assert audio.check(np.array([0.5, 2.0])).tolist() == [0.5, 1.0]
    assert audio.check(torch.tensor([0.5], dtype=torch.bfloat16)).dtype == torch.float32
    assert audio.check(np.zeros(0, np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("pcm", "cure"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\); give one dimension"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, 12000.0]), "divide by 32768"),
        (np.array([True]), "float32"),
        (np.zeros(3, np.uint8), "float32"),
        (b"\0\0", "is a bytes"),
        (torch.zeros(3, dtype=torch.complex64), "float32"),
    ],
)
def test_pushed_arrays_that_are_not_audio_say_what_to_give(pcm: object, cure: str) -> None:
    with pytest.raises(BadAudio, match=cure):
        audio.check(pcm)
