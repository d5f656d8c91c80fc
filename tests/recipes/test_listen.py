"""Live captions: from blocks of a fake microphone, and from a real PortAudio device."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from babble import noise
from rich.console import Console
from rich.live import Live
from torch import Tensor

from vivavoce.recipes import cli, sample
from vivavoce.recipes.listen import (
    Caption,
    Lines,
    Terminal,
    Utterances,
    Written,
    chunked,
    listen,
    on_interrupt,
    recorded,
)
from vivavoce.recipes.options import MODEL
from vivavoce.speech import audio, checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import score
from vivavoce.speech.asr.words import Update, Word
from vivavoce.speech.checkpoint import Loaded
from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.punctuate import Punctuator, Writer
from vivavoce.speech.vad import WINDOW, Vad, VadState
from vivavoce.streaming.clock import Clock

SENTENCE = sample.SENTENCE


class Loudness(Vad):
    """Voice activity that a test can foresee: speech is whatever is not silent, in windows fed whole."""

    def step(self, x: Tensor, state: VadState, valid: Tensor, final: Tensor, lookahead: int = 0) -> Any:
        windows = x.unflatten(1, (-1, WINDOW))
        return (windows.abs().amax(-1) > 0).float(), torch.tensor([windows.shape[1]])


@dataclass
class Kept:
    """A screen that remembers."""

    finals: list[str] = field(default_factory=list)
    lives: list[tuple[str, str]] = field(default_factory=list)

    def live(self, stable: str, tail: str) -> None:
        self.lives.append((stable, tail))

    def final(self, text: str) -> None:
        self.finals.append(text)


def blocks(pcm: np.ndarray, size: int = WINDOW) -> Iterator[Tensor]:
    yield from torch.from_numpy(pcm).split(size)


def heard(loaded: Loaded, stream: Iterable[Tensor], frames: int = 1) -> Kept:
    screen = Kept()
    listen(Recognizer(loaded.model, loaded.tokenizer), stream, screen, frames, Loudness())
    return screen


def whole(loaded: Loaded, pcm: np.ndarray, frames: int = 1) -> str:
    return Recognizer(loaded.model, loaded.tokenizer).transcribe(torch.from_numpy(pcm), lookahead=frames).text


# --- captions -------------------------------------------------------------------------------------------------------


def update(words: str = "", tail: str = "") -> Update:
    return Update(tuple(Word(word, 0, 1, 1.0) for word in words.split()), tail)


def test_a_word_still_open_when_the_utterance_ended_is_not_said_again() -> None:
    caption = Caption()
    caption.add(update("so we", "go"))
    assert caption.finish() == "so we go"
    caption.add(update())
    assert caption.shown == ("", "")
    caption.add(update("go", "on"))
    assert caption.shown == ("", "on")
    caption.add(update("on and", ""))
    assert caption.finish() == "on and"


def test_a_word_that_grew_after_its_utterance_ended_is_said_whole() -> None:
    caption = Caption()
    caption.add(update("", "some"))
    assert caption.finish() == "some"
    caption.add(update("", "something"))
    assert caption.finish() == "something"


def test_only_news_count_as_a_change() -> None:
    caption = Caption()
    assert caption.add(update("", "a"))
    assert not caption.add(update("", "a"))
    assert caption.add(update("a", ""))


# --- the loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [WINDOW, 4 * WINDOW])
@pytest.mark.parametrize("frames", [0, 6])
def test_live_words_are_those_of_one_pass_with_the_last_word_flushed(loaded: Loaded, size: int, frames: int) -> None:
    pcm = noise(2.56, 3)
    screen = heard(loaded, blocks(pcm, size), frames)
    assert " ".join(screen.finals) == whole(loaded, pcm, frames)


@pytest.mark.parametrize("size", [1, 100, 320, 5000])
@pytest.mark.parametrize("frames", [0, 6])
def test_blocks_are_held_until_a_chunk_is_whole_and_no_longer(size: int, frames: int) -> None:
    clock, pcm = Clock(), np.arange(30000, dtype=np.float32)
    pieces = list(chunked(blocks(pcm, size), frames, clock))
    assert torch.equal(torch.cat(pieces), torch.from_numpy(pcm))
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    first = clock.worst_delay(frames) - clock.frame
    needed = first + clock.chunk_samples(frames) * np.arange(len(ends))
    assert (ends >= needed).all()
    assert (ends - needed < max(size, 1)).all() or size > clock.chunk_samples(frames)


def test_partials_only_extend_apart_from_their_tail(loaded: Loaded) -> None:
    screen = heard(loaded, blocks(noise(2.56, 4)), 0)
    stables = [stable for stable, _ in screen.lives]
    assert len(screen.lives) > 5
    assert all(after.startswith(before) for before, after in pairwise(stables))
    assert screen.finals[0].startswith(stables[-1])


@pytest.mark.parametrize("seed", [2, 4, 1])
def test_silence_ends_an_utterance_and_no_word_is_lost_or_doubled(loaded: Loaded, seed: int) -> None:
    silence = np.zeros(16384 * 2, np.float32)
    pcm = np.concatenate([noise(1.024, seed) + 1e-6, silence, noise(1.024, seed + 20) + 1e-6, silence])
    finals = [line.split() for line in heard(loaded, blocks(pcm.astype(np.float32))).finals]
    assert len(finals) >= 2
    for line, following in pairwise(finals):
        if following[0].startswith(line[-1]):  # it grew during the silence, and was then said again, whole
            line.pop()
    assert [word for line in finals for word in line] == whole(loaded, pcm.astype(np.float32)).split()


@pytest.mark.parametrize("frames", [0, 13, 69])
def test_utterances_end_however_many_follow_within_the_delay(frames: int) -> None:
    clock = Clock()
    utterances, heard, ends = Utterances(Loudness(), clock.worst_delay(frames)), 0, 0
    said = np.repeat(np.array([1, 0], np.float32), [32 * WINDOW, 48 * WINDOW])  # 1 s, then 1.5 s of silence
    for block in blocks(np.tile(said, 40), 5 * WINDOW):
        heard += len(block)
        ends += utterances.ended(block, heard, 0)
    assert ends == 40 - clock.worst_delay(frames) // len(said)


def test_what_was_said_is_shown_before_a_lost_device_is_told(loaded: Loaded) -> None:
    pcm = noise(1.28, 5)

    def unplugged() -> Iterator[Tensor]:
        yield from blocks(pcm)
        raise MissingDevice("the microphone went away; plug it in again")

    screen = Kept()
    with pytest.raises(MissingDevice, match="went away"):
        listen(Recognizer(loaded.model, loaded.tokenizer), unplugged(), screen, 6, Loudness())
    assert " ".join(screen.finals) == whole(loaded, pcm, 6)


def test_nothing_heard_is_nothing_said(loaded: Loaded) -> None:
    assert heard(loaded, iter(())).finals == []


def test_what_is_saved_is_what_was_heard(tmp_path: Path) -> None:
    pcm = noise(0.7)
    with audio.Writer(tmp_path / "x.wav", 16000) as out:
        passed = torch.cat(list(recorded(blocks(pcm), out)))
    assert torch.equal(passed, torch.from_numpy(pcm))
    saved, rate = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate == 16000
    assert np.abs(saved - pcm).max() < 1e-4


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python has it, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_stops_once_and_the_next_breaks_off() -> None:
    stopped: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(lambda: stopped.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert stopped == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- the screen -----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_unstable_tail_dim_and_lets_finals_scroll_up() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system="standard", legacy_windows=False)
    with Live(console=console, auto_refresh=False, transient=True) as display:
        screen = Terminal(display)
        screen.live("so we", "go")
        assert "so we \x1b[2mgo\x1b[0m" in out.getvalue()
        screen.final("so we [b]go[/b] :smile:")
    assert "so we [b]go[/b] :smile:\n" in out.getvalue()


def test_a_pipe_gets_finished_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().live("so", "we")
    Lines().final("so we go")
    assert capsys.readouterr().out == "so we go\n"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--lookahead", "x"], ["--device", "tpu"], ["word"]])
def test_bad_usage_exits_with_2(argv: list[str]) -> None:
    assert cli.main(["listen", *argv]) == 2


def test_a_microphone_that_is_not_there_is_one_line(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "--model", str(quick), "--device", "cpu", "--input-device", "no such thing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vivavoce: ")
    assert error.count("\n") == 1


@dataclass
class Listening:
    """A running `vivavoce listen`."""

    process: subprocess.Popen[str]

    def __enter__(self) -> Listening:
        assert self.process.stderr is not None
        self.greeting = self.process.stderr.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def start(env: dict[str, str], *argv: object) -> Listening:
    env = env | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "vivavoce.recipes.cli", "listen", "--device", "cpu", *map(str, argv)]
    return Listening(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


@pytest.fixture
def sentence(write: Callable[..., Path]) -> Path:
    """A spoken sentence, or a skip."""
    from vivavoce.recipes.data import voices
    from vivavoce.speech.errors import MissingDependency

    try:
        pcm = voices.say(SENTENCE, voices.Voice("espeak-ng", "en-us", 50, 50, 140, 0.5))
    except MissingDependency as e:
        pytest.skip(str(e))
    return write("sentence.wav", np.pad(pcm, 8000))


def test_a_real_device_is_heard_recognised_and_saved(
    pulse: Any, model_dir: Path, sentence: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "heard.wav"
    with start(pulse.env, "--model", model_dir, "--input-device", "cable", "--save", saved) as listening:
        assert "lookahead 480 ms, so a sound shows after 572 ms at worst" in listening.greeting
        pulse.play(sentence)
        listening.process.send_signal(signal.SIGINT)
        out, error = listening.process.communicate(timeout=300)
    assert listening.process.returncode == 0, error
    played, _ = soundfile.read(sentence)
    heard, rate = soundfile.read(saved)
    assert rate == 16000
    assert best_match(played[8000:-8000], heard) > 0.9  # a sound server may take 20 ms to start
    assert out.split()


def test_the_shipped_model_prints_the_words_spoken(pulse: Any, sentence: Path) -> None:
    if MODEL not in [info.name for info in checkpoint.models()]:
        pytest.skip(f"{MODEL} is not in this checkout")
    with start(pulse.env, "--input-device", "cable") as listening:
        pulse.play(sentence)
        listening.process.send_signal(signal.SIGINT)
        out, error = listening.process.communicate(timeout=300)
    assert listening.process.returncode == 0, error
    assert score(SENTENCE, out).words.rate < 0.5, out


def test_unplugging_shows_what_was_said_and_fails(pulse: Any, model_dir: Path, sentence: Path) -> None:
    with start(pulse.env, "--model", model_dir, "--input-device", "cable", "--lookahead", "0") as listening:
        pulse.play(sentence)
        pulse.unplug()
        out, error = listening.process.communicate(timeout=300)
    assert listening.process.returncode == 1
    assert out.split()
    assert "went away" in error


def best_match(played: np.ndarray, heard: np.ndarray) -> float:
    """The largest correlation coefficient of `played` with a stretch of `heard`."""
    n = len(played) + len(heard)
    cross = np.fft.irfft(np.fft.rfft(heard, n) * np.conj(np.fft.rfft(played, n)), n)
    energy = np.cumsum(np.concatenate([[0.0], heard**2]))
    stretches = np.sqrt(energy[len(played) :] - energy[: len(energy) - len(played)])
    return float((cross[: len(stretches)] / (stretches * np.linalg.norm(played) + 1e-9)).max())


def test_a_written_screen_adds_marks_to_what_is_finished_only() -> None:
    kept = Kept()
    screen = Written(kept, Writer(Punctuator.load()))
    screen.live("he sat", "down")
    screen.final("he sat down")
    assert kept.lives == [("he sat", "down")]
    assert kept.finals == ["He sat down."]
