"""`vivavoce speak`: texts from everywhere, to files and loudspeakers."""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_voice import ToyVoice

from vivavoce.recipes import cli, speak
from vivavoce.recipes.speak import Player
from vivavoce.speech import audio
from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.tts.phones import IDS
from vivavoce.speech.tts.synthesizer import Speech, SpokenWord, Synthesizer

TEXT = "Hello there, my good friend. It is $3.50 today!"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`vivavoce speak ...` with the toy voice."""
    monkeypatch.setattr(speak, "load_voice", lambda source, device: ToyVoice())
    return lambda *argv: cli.main(["speak", *map(str, argv)])


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))  # type: ignore[arg-type]

    return give


class Heard:
    """A loudspeaker that keeps what it is given; after `lasts` pieces it is unplugged."""

    lasts = 10**6

    def __init__(self, device: str | None, rate: int) -> None:
        self.pieces: list[Tensor] = []
        heard.append(self)

    def __enter__(self) -> Heard:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def play(self, pcm: Tensor) -> None:
        if len(self.pieces) >= self.lasts:
            raise MissingDevice("the loudspeaker went away; plug it in again")
        self.pieces.append(pcm)


heard: list[Heard] = []


@pytest.fixture
def loudspeaker(monkeypatch: pytest.MonkeyPatch) -> list[Heard]:
    heard.clear()
    monkeypatch.setattr(speak, "Loudspeaker", Heard)
    return heard


def whole(text: str = TEXT, rate: float = 1.0) -> Tensor:
    return Synthesizer(ToyVoice()).speak(text, rate=rate).pcm


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "opus", "ogg"])
@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_a_text_becomes_a_file_of_the_kind_its_name_says(run: Callable[..., int], tmp_path: Path, ending: str,
                                                         stream: tuple[str, ...]) -> None:  # fmt: skip
    path = tmp_path / f"out.{ending}"
    assert run(TEXT, "-o", path, *stream) == 0
    assert audio.info(path).seconds == pytest.approx(len(whole()) / 24_000, abs=0.1)
    if ending in ("wav", "flac"):
        assert torch.allclose(audio.read(path, 24_000), whole(), atol=1e-4)


def test_stdin_and_files_are_texts_too(run: Callable[..., int], stdin: Callable[[bytes], None], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    for name, argv in (("a", ("-",)), ("b", ("-", "--stream")), ("c", ("--file", tmp_path / "text.txt"))):
        stdin(TEXT.encode())
        assert run(*argv, "-o", tmp_path / f"{name}.wav") == 0
        assert torch.allclose(audio.read(tmp_path / f"{name}.wav", 24_000), whole(), atol=1e-4)


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_without_a_file_it_is_played(run: Callable[..., int], loudspeaker: list[Heard],
                                     stream: tuple[str, ...]) -> None:  # fmt: skip
    assert run(TEXT, "--rate", 1.5, *stream) == 0
    (speaker,) = loudspeaker
    assert torch.equal(torch.cat(speaker.pieces), whole(rate=1.5))
    assert (len(speaker.pieces) > 1) == bool(stream)


def test_streaming_speaks_what_there_is_while_more_text_is_awaited() -> None:
    texts: speak.Texts = queue.SimpleQueue()
    texts.put("We are at home now. ")
    made = speak.speak(Synthesizer(ToyVoice()), texts)
    first = next(made)
    assert len(first.pcm) > 0
    texts.put("And you?")
    texts.put(None)
    everything = torch.cat([first.pcm, *(speech.pcm for speech in made)])
    assert torch.equal(everything, whole("We are at home now. And you?"))


def test_a_file_is_written_while_speech_is_made_and_none_before_a_word(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sizes = tmp_path / "out.wav", []

    def made(*_: object, **__: object) -> Iterator[Speech]:
        yield Speech(torch.zeros(24_000), (), done=False)  # a pause
        sizes.append(target.exists())
        for i in range(3):
            yield Speech(torch.full((24_000,), 0.5), (SpokenWord("word", 24_000 * i, 24_000 * (i + 1)),), done=i == 2)
            sizes.append(target.stat().st_size)

    monkeypatch.setattr(speak, "speak", made)
    assert run("word word word", "-o", target) == 0
    assert sizes[0] is False
    assert sizes[1] < sizes[2] < sizes[3]
    assert len(audio.read(target, 24_000)) == 4 * 24_000


def test_word_times_are_json(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TEXT, "-o", tmp_path / "out.wav", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["text"] == TEXT
    assert told["duration"] == pytest.approx(len(whole()) / 24_000, abs=1e-3)
    assert [word["word"] for word in told["words"]] == TEXT.split()
    assert all(0 <= word["start"] < word["end"] <= told["duration"] for word in told["words"])
    assert "s of speech made in" in captured.err


# --- many lines


def test_every_line_becomes_a_recording_as_it_would_alone(run: Callable[..., int], tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    lines = [TEXT, "No.", "One more line of this text,", "Москва"] * 3
    (tmp_path / "lines.txt").write_text("\n\n".join(lines))
    out = tmp_path / "a" / "b"
    assert run("-f", tmp_path / "lines.txt", "--lines", "-o", out, "--batch", 3, "--json", "--format", "flac") == 1
    captured = capsys.readouterr()
    for i, line in enumerate(lines, 1):
        path = out / f"{i:04d}.flac"
        if line == "Москва":
            assert not path.exists()
            assert f"{i:04d}.flac: there is nothing in the text" in captured.err
        else:
            assert torch.allclose(audio.read(path, 24_000), whole(line), atol=1e-4)
    told = sorted(map(json.loads, captured.out.splitlines()), key=lambda row: str(row["file"]))
    assert [row["text"] for row in told] == [line for line in lines if line != "Москва"]
    assert "9 recordings in" in captured.err


def test_words_of_other_scripts_are_named_and_the_rest_is_spoken(run: Callable[..., int], tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert run("The word Привет means hello, 你好 too 😀.", "-o", tmp_path / "a.wav") == 0
    assert "want of Latin letters: Привет 你好\n" in capsys.readouterr().err
    assert run('<speak>caf\u00e9 <break time="1s"/> na\u00efve 50% &amp; more</speak>', "-o", tmp_path / "a.wav") == 0
    assert "Latin" not in capsys.readouterr().err


def test_wrong_ssml_in_one_line_is_that_lines_fault(run: Callable[..., int], tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "lines.txt").write_text("<speak>a\nhello\n")
    assert run("-f", tmp_path / "lines.txt", "--lines", "-o", tmp_path) == 1
    assert (tmp_path / "0002.wav").exists()
    assert "0001.wav: SSML: <speak> is never closed" in capsys.readouterr().err


def test_a_line_the_voice_fails_on_leaves_the_others(run: Callable[..., int], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    plan = ToyVoice.plan

    def failing(voice: ToyVoice, phones: list[int], *, rate: float = 1.0) -> object:
        if IDS["?"] in phones:
            raise ValueError("no plan for this")
        return plan(voice, phones, rate=rate)

    monkeypatch.setattr(ToyVoice, "plan", failing)
    (tmp_path / "lines.txt").write_text("Who?\nhello\n")
    assert run("-f", tmp_path / "lines.txt", "--lines", "-o", tmp_path) == 1
    assert (tmp_path / "0002.wav").exists()
    assert not (tmp_path / "0001.wav").exists()
    assert "0001.wav: no plan for this" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no plan"):
        run("Who?", "-o", tmp_path / "a.wav")


# --- what goes wrong


@pytest.mark.parametrize("text", ["", "  \n", "... !!!", "😀", "你好"])
def test_nothing_to_say_is_an_error_and_leaves_no_file(run: Callable[..., int], tmp_path: Path, text: str,
                                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert run(text, "-o", tmp_path / "out.wav") == 1
    assert "nothing in the text that can be spoken" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stream", [(), ("--stream",)])
@pytest.mark.parametrize("text", ["... !!!", "<speak><emphasis>a</emphasis></speak>"])
def test_a_file_that_is_there_stays_where_nothing_can_be_spoken(run: Callable[..., int], tmp_path: Path, text: str,
                                                                stream: tuple[str, ...]) -> None:  # fmt: skip
    (tmp_path / "keep.wav").write_text("precious")
    assert run(text, "-o", tmp_path / "keep.wav", *stream) == 1
    assert (tmp_path / "keep.wav").read_text() == "precious"


@pytest.mark.parametrize("argv", [(), ("a", "--file", "b"), ("a", "-o", "x.doc"), ("a", "--lines"),
                                  ("a", "--rate", "0"), ("a", "--rate", "2.1"), ("a", "--rate", "nan"),
                                  ("a", "--steps", "0"), ("a", "--steps", "11"), ("a", "--seed", str(2**63)),
                                  ("a", "--lines", "-o", "x", "--stream")])  # fmt: skip
def test_bad_usage(run: Callable[..., int], argv: tuple[str, ...]) -> None:
    assert run(*argv) == 2


@pytest.mark.parametrize(("argv", "said"), [
    (("<speak>a", "-o", "x.wav"), "</speak>"), (("a", "-o", "none/x.wav"), "none/x.wav"),
    (("-f", "none.txt", "-o", "x.wav"), "none.txt"), (("-f", "empty.txt", "--lines", "-o", "x"), "no line"),
])  # fmt: skip
def test_errors_are_one_line_that_names_the_input(run: Callable[..., int], tmp_path: Path, argv: tuple[str, ...],
                                                  said: str, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    assert run(*argv) == 1
    assert said in capsys.readouterr().err


def test_an_unknown_voice_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["speak", "hello", "--voice", "nobody"]) == 1
    assert "nobody: no such voice" in capsys.readouterr().err


def test_a_loudspeaker_that_goes_away_ends_it_with_its_error(run: Callable[..., int], loudspeaker: list[Heard],
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(Heard, "lasts", 2)
    assert run("so it goes on and on " * 500, "--stream") == 1
    assert "the loudspeaker went away" in capsys.readouterr().err


def test_what_is_written_after_a_fault_raises_it() -> None:
    speaker = Heard(None, 24_000)
    speaker.lasts = 0
    player = Player(speaker)  # type: ignore[arg-type]
    player.write(torch.zeros(1))
    with pytest.raises(MissingDevice):
        player.close()
    with pytest.raises(MissingDevice):
        player.write(torch.zeros(1))
