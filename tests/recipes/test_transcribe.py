"""Recordings in, transcripts out: every kind of input, every kind of output, and what goes wrong."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from babble import noise
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.recipes import cli, transcribe
from vivavoce.recipes.options import MODEL
from vivavoce.recipes.transcribe import Recording, batches, find
from vivavoce.speech import audio, checkpoint
from vivavoce.speech.asr.recognizer import BLOCK_SECONDS, Recognizer
from vivavoce.speech.asr.transcript import FORMATS, Transcript
from vivavoce.speech.asr.words import Word
from vivavoce.speech.checkpoint import Loaded

Write = Callable[..., Path]


@pytest.fixture
def run(quick: Path) -> Callable[..., int]:
    """`vivavoce transcribe ...` with the tiny model."""
    return lambda *argv: cli.main(["transcribe", "--model", str(quick), "--device", "cpu", *map(str, argv)])


def alone(loaded: Loaded, path: Path, lookahead: int = 69) -> str:
    return Recognizer(loaded.model, loaded.tokenizer).transcribe(audio.read(path), lookahead=lookahead).text


# --- what is found --------------------------------------------------------------------------------------------------


def names(recordings: Sequence[Recording]) -> list[str]:
    return [r.name.as_posix() for r in recordings]


def test_folders_are_searched_for_audio_and_keep_their_structure(tmp_path: Path) -> None:
    for name in ("b/x.WAV", "a/x.flac", "a/deep/y.mp3", "a/notes.txt", "a/._x.flac", "z.opus"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(find([str(tmp_path)])) == ["a/deep/y", "a/x", "b/x", "z"]


def test_patterns_that_the_shell_left_alone_are_expanded(tmp_path: Path) -> None:
    for name in ("a/1.wav", "a/2.wav", "b/3.wav", "4.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(find([str(tmp_path / "**" / "*.wav")])) == ["1", "2", "3"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].wav").touch()
    (tmp_path / "a1.wav").touch()
    assert [r.path.name for r in find([str(tmp_path / "a[1].wav")])] == ["a[1].wav"]


def test_equal_names_are_numbered_and_a_file_counts_once(tmp_path: Path) -> None:
    for name in ("a/x.wav", "b/x.wav", "c/X.mp3"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    given = [str(tmp_path / name) for name in ("a/x.wav", "b/x.wav", "c/X.mp3", "a/../a/x.wav")]
    assert names(find(given)) == ["x", "x-2", "X-3"]


@given(st.lists(st.floats(0.01, 400), min_size=1, max_size=40), st.floats(1, 500))
def test_every_recording_is_in_one_batch_and_no_step_is_larger_than_allowed(lengths: list[float], most: float) -> None:
    recordings = [Recording(Path(str(i)), Path(str(i)), seconds) for i, seconds in enumerate(lengths)]
    seen: list[Recording] = []
    for batch, slots in batches(recordings, most):
        seen += batch
        longest = min(max(r.seconds for r in batch), BLOCK_SECONDS)
        assert slots == 1 or slots * longest <= most
        assert 1 <= slots <= len(batch)
    assert sorted(map(id, seen)) == sorted(map(id, recordings))
    assert [r.seconds for r in seen] == sorted(lengths, reverse=True)


# --- what comes out -------------------------------------------------------------------------------------------------


def test_stdout_has_the_words_of_one_file_alone(run: Callable[..., int], loaded: Loaded, write: Write,
                                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    path = write("a.wav", noise(3))
    assert run(path) == 0
    captured = capsys.readouterr()
    assert captured.out == alone(loaded, path) + "\n"
    assert "1 transcribed, 0 failed; 3.0 s of audio" in captured.err


def test_many_files_come_in_the_order_given_each_as_it_would_alone(
    run: Callable[..., int], loaded: Loaded, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(f"{i}.wav", noise(seconds, i)) for i, seconds in enumerate((1.0, 7.0, 0.3, 2.5, 6.1))]
    assert run(*paths, "--batch-seconds", 14) == 0
    expected = "".join(f"==> {path} <==\n{(alone(loaded, path) + chr(10)).lstrip()}\n" for path in paths)
    assert capsys.readouterr().out == expected


def test_json_on_stdout_is_one_object_alone_and_a_line_each_when_there_are_several(
    run: Callable[..., int], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write("a.wav", noise(2, 1)), write("b.wav", noise(1, 2))]
    assert run(paths[0], "--format", "json", "--lookahead", "480") == 0
    single = json.loads(capsys.readouterr().out)
    assert list(single) == ["text", "words", "duration", "model", "lookahead_ms"]
    assert (single["duration"], single["model"], single["lookahead_ms"]) == (2.0, "tiny", 480)
    assert single["text"].split() == [word["word"] for word in single["words"]]
    assert run(*paths, "--format", "json", "--lookahead", "480") == 0
    several = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert several[0] == {"file": str(paths[0]), **single}
    assert several[1]["file"] == str(paths[1])


@pytest.mark.parametrize("kind", FORMATS)
def test_an_output_folder_gets_a_file_an_input(
    run: Callable[..., int], loaded: Loaded, write: Write, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in/a.v2.wav", noise(2, 1))
    write("in/sub/b.wav", noise(1, 2))
    out = tmp_path / "new" / "out"
    assert run(tmp_path / "in", "--output-dir", out, "--format", kind) == 0
    assert capsys.readouterr().out == ""
    recognizer = Recognizer(loaded.model, loaded.tokenizer)
    for name in ("a.v2", "sub/b"):
        transcript = recognizer.transcribe(audio.read(tmp_path / "in" / f"{name}.wav"))
        assert (out / f"{name}.{kind}").read_text(encoding="utf-8") == FORMATS[kind](transcript)


def test_a_rounded_lookahead_is_told(run: Callable[..., int], write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write("a.wav", noise(0.5)), "--lookahead", "500") == 0
    assert "vivavoce: lookahead 500 ms is rounded down to 480 ms\n" in capsys.readouterr().err


# --- what goes wrong ------------------------------------------------------------------------------------------------


def bad_files(folder: Path, write: Write) -> list[Path]:
    """One of each kind of file that cannot be transcribed."""
    spoilt = noise(1)
    spoilt[8000] = np.nan
    write("nan.wav", spoilt, subtype="FLOAT")
    header = write("header.wav", noise(0.1)).read_bytes()
    (folder / "header.wav").write_bytes(header[:20])
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is not audio " * 20)
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    (folder / "folder").mkdir()
    write("nothing.wav", noise(0))
    kinds = ("nan.wav", "header.wav", "empty.wav", "text.wav", "dangling.wav", "folder", "nothing.wav", "missing.wav",
             "none*.wav")  # fmt: skip
    return [folder / name for name in kinds]


def test_bad_files_are_named_and_the_others_are_written(
    run: Callable[..., int], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = bad_files(tmp_path, write)
    good = [write("good.wav", noise(1, 1)), write("better.wav", noise(2, 2))]
    assert run(good[0], *bad, good[1], "--output-dir", tmp_path / "out") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vivavoce: ")]
    assert len(errors) == len(bad)
    for path in bad:
        assert sum(line.startswith(f"vivavoce: {path}") for line in errors) == 1, path
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["better.txt", "good.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_one_may_not_read_is_named(run: Callable[..., int], write: Write,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    path = write("secret.wav", noise(1))
    path.chmod(0)
    assert run(path) == 1
    assert f"{path} cannot be read" in capsys.readouterr().err


def test_a_fault_in_the_middle_keeps_what_came_before_and_the_recordings_beside_it(
    run: Callable[..., int], loaded: Loaded, write: Write, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(transcribe, "BLOCK_SECONDS", 1.0)
    spoilt = noise(6, 1)
    spoilt[16000 * 5] = np.inf
    bad, good = write("bad.wav", spoilt, subtype="FLOAT"), write("good.wav", noise(6, 2))
    assert run(bad, good, "--output-dir", tmp_path / "out", "--lookahead", 0) == 1
    error = capsys.readouterr().err
    assert f"vivavoce: {bad} holds NaN or infinite samples" in error
    assert "s were transcribed)" in error
    assert (tmp_path / "out" / "good.txt").read_text() == alone(loaded, good, 0) + "\n"
    kept = (tmp_path / "out" / "bad.txt").read_text().split()
    assert len(kept) > 3
    whole = alone(loaded, write("whole.wav", noise(6, 1), subtype="FLOAT"), 0).split()
    assert kept[:-1] == whole[: len(kept) - 1]


def test_rates_channels_clipping_and_silence_are_no_faults(
    run: Callable[..., int], write: Write, tmp_path: Path
) -> None:
    x = noise(2, 5)
    write("in/mono.wav", x, subtype="FLOAT")
    write("in/six.wav", np.repeat(x[:, None], 6, 1), subtype="FLOAT")
    write("in/8k.wav", noise(2, 5, 8000), 8000)
    write("in/96k.wav", noise(2, 5, 96000), 96000)
    write("in/clipped.wav", np.clip(x * 1000, -1, 1))
    write("in/silence.wav", np.zeros(32000, np.float32))
    assert run(tmp_path / "in", "--output-dir", tmp_path, "--format", "json") == 0
    found = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert {name: t["duration"] for name, t in found.items()} == dict.fromkeys(
        ("mono", "six", "8k", "96k", "clipped", "silence"), 2.0
    )
    assert found["six"]["words"] == found["mono"]["words"]


def test_silence_and_hiss_give_no_words(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    if MODEL not in [info.name for info in checkpoint.models()]:
        pytest.skip(f"{MODEL} is not in this checkout")
    hiss = np.random.default_rng(0).normal(0, 0.001, 80000).astype(np.float32)
    for path in (write("silence.wav", np.zeros(80000, np.float32)), write("hiss.wav", hiss)):
        assert cli.main(["transcribe", "--device", "cpu", str(path)]) == 0
    assert capsys.readouterr().out == ""


def test_a_truncated_file_gives_the_samples_it_still_has(
    run: Callable[..., int], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("cut.wav", noise(3))
    path.write_bytes(path.read_bytes()[: 44 + 2 * 16000])
    assert run(path, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["duration"] == 1.0


@pytest.mark.parametrize(
    "argv",
    [
        ["--lookahead", "9999"],
        ["--lookahead", "soon"],
        ["--format", "doc"],
        ["--batch-seconds", "0"],
        ["--device", "tpu"],
        ["--nonsense"],
    ],
)
def test_bad_usage_exits_with_2(run: Callable[..., int], argv: list[str]) -> None:
    assert run("a.wav", *argv) == 2


def test_no_files_is_bad_usage(run: Callable[..., int]) -> None:
    assert run() == 2


def test_an_output_folder_that_cannot_be_made_is_bad_usage(run: Callable[..., int], write: Write) -> None:
    path = write("a.wav", noise(0.1))
    assert run(path, "--output-dir", path) == 2


def test_a_transcript_that_cannot_be_written_fails_alone(
    run: Callable[..., int], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "a.txt").mkdir(parents=True)
    assert run(write("a.wav", noise(1)), write("b.wav", noise(1)), "--output-dir", tmp_path / "out") == 1
    assert f"{tmp_path / 'out' / 'a.txt'} cannot be written" in capsys.readouterr().err
    assert (tmp_path / "out" / "b.txt").is_file()


def test_a_gpu_that_is_not_there_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["transcribe", "--device", "cuda", str(write("a.wav", noise(0.1)))]) == 1
    assert "--device cpu" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcribe", "--model", "nonesuch", str(write("a.wav", noise(0.1)))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vivavoce: nonesuch")
    assert error.count("\n") == 1


def test_punctuation_and_capitals_are_added_when_asked_for(run: Callable[..., int], write: Write,
                                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    path = write("a.wav", noise(2))
    assert run(path) == 0
    plain = capsys.readouterr().out.strip()
    assert run(path, "--punctuate") == 0
    written = capsys.readouterr().out.strip()
    assert written[0].isupper()
    assert written[-1] in ".?"
    assert re.sub(r"[^a-z ]", "", written.lower()) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_beside_the_bar_lines_longer_than_the_terminal_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    for name, value in {"COLUMNS": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    words = tuple(Word(f"word{i}", 100 * i, 100 * i + 50, 1.0) for i in range(30))
    recordings = [Recording(Path(f"[red]{i}.wav"), Path("a"), transcript=Transcript(words, 32000)) for i in range(2)]
    transcribe.run(recordings, iter(recordings), transcribe.Stdout(recordings, "json").take)
    lines = [line[line.index("{") :] for line in screen.getvalue().splitlines() if "{" in line]
    assert [json.loads(line)["file"] for line in lines] == ["[red]0.wav", "[red]1.wav"]


def test_a_closed_stdout_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert transcribe.run([], iter([]), lambda recording: None).startswith("0 transcribed, 0 failed")
