"""Errors, delays and rows: what `vivavoce evaluate` counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from babble import noise

from vivavoce.recipes import cli
from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.evaluate import Result, Session, evaluate, percentile, pushes, row, sets
from vivavoce.recipes.options import lookahead
from vivavoce.speech import audio
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import Errors, score, total
from vivavoce.speech.asr.words import Update, Word
from vivavoce.speech.checkpoint import Loaded
from vivavoce.speech.errors import BadManifest
from vivavoce.streaming.clock import Clock

TEXTS = ["ba do ke", "ruvo mu", "ta ta ta ta", "no"]


@pytest.fixture
def corpus(write: Callable[..., Path], tmp_path: Path) -> Path:
    """Two sets with a manifest each, one below the other's neighbour: corpus/first, corpus/second."""
    for name, texts in (("first", TEXTS), ("second", TEXTS[:1])):
        rows = [
            Utterance(write(f"corpus/{name}/{i}.wav", noise(1.3 + i, i)), 1.3 + i, 16000, "s", "dev", text)
            for i, text in enumerate(texts)
        ]
        spare = Utterance(write(f"corpus/{name}/train.wav", noise(0.5)), 0.5, 16000, "s", "train", "ba")
        silent = Utterance(spare.path, 0.5, 16000, "s", "dev", "")
        manifest.write(tmp_path / "corpus" / name / manifest.NAME, [*rows, spare, silent])
    return tmp_path / "corpus"


@pytest.fixture
def run(quick: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """`vivavoce evaluate --json ...` with the tiny model: exit code, rows, stderr."""

    def run(*argv: object) -> tuple[int, list[dict[str, Any]], str]:
        code = cli.main(["evaluate", "--model", str(quick), "--device", "cpu", "--json", *map(str, argv)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out)["rows"] if captured.out else [], captured.err

    return run


# --- emission delay -------------------------------------------------------------------------------------------------


def delays(*updates: tuple[int, list[tuple[str, int]], str]) -> list[int]:
    """The delays of a session given (heard, [(word, stop)], tail)."""
    session = Session(Utterance(Path("x"), 1, 16000, "", "", ""), iter(()))
    for heard, words, tail in updates:
        session.take(Update(tuple(Word(word, 0, stop, 1.0) for word, stop in words), tail), heard)
    return session.delays


def test_a_word_is_emitted_with_its_last_token_not_when_the_next_begins() -> None:
    assert delays((100, [], "he"), (200, [], "hello"), (300, [], "hello"), (400, [("hello", 150)], "wo")) == [50]


def test_a_word_that_grows_and_closes_in_one_step_is_emitted_there() -> None:
    assert delays((100, [], "he"), (400, [("hello", 150)], "wo")) == [250]
    assert delays((400, [("a", 100), ("b", 200)], "")) == [300, 200]


def test_the_last_word_counts_from_its_own_token_also_when_the_end_closes_it() -> None:
    assert delays((100, [], "so"), (900, [("so", 80)], "")) == [20]


def test_a_word_said_twice_is_two_words() -> None:
    assert delays((100, [], "the"), (300, [("the", 90)], "the"), (700, [("the", 280)], "")) == [10, 20]


@pytest.mark.parametrize("frames", [0, 1, 6, 69])
@pytest.mark.parametrize("samples", [1, 199, 200, 201, 20000, 200000])
def test_pushes_are_the_recording_cut(frames: int, samples: int) -> None:
    pcm = torch.arange(samples)
    parts = list(pushes(pcm, frames, Clock()))
    assert torch.equal(torch.cat([part for part, _ in parts]), pcm)
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize("frames", [0, 1, 6])
def test_each_push_completes_one_chunk_and_a_sample_less_does_not(loaded: Loaded, frames: int) -> None:
    recognizer = Recognizer(loaded.model, loaded.tokenizer)

    def given() -> int:
        return int(recognizer.engine.state.stages[1].to_dict()["frames"][0])

    slot = recognizer.open(lookahead=frames)
    for i, (pcm, last) in enumerate(pushes(torch.from_numpy(noise(3)), frames, recognizer.clock)):
        if not last:
            recognizer.step({slot: pcm[:-1]})
            assert given() == i * (frames + 1)
            recognizer.step({slot: pcm[-1:]})
            assert given() == (i + 1) * (frames + 1)


# --- scores ---------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_each_recording_transcribed_alone(loaded: Loaded, corpus: Path) -> None:
    utterances = sets(corpus / "first", "dev", None)["first"]
    assert [u.text for u in utterances] == TEXTS
    recognizer = Recognizer(loaded.model, loaded.tokenizer, slots=3)
    result = evaluate(recognizer, utterances, 1)
    texts = [recognizer.transcribe(audio.read(u.path), lookahead=1).text for u in utterances]
    assert result.score == total(score(u.text, text) for u, text in zip(utterances, texts, strict=True))
    assert len(result.delays) == sum(len(text.split()) for text in texts)
    assert result.samples == sum(len(audio.read(u.path)) for u in utterances)


def test_how_many_sessions_share_a_batch_changes_only_the_speed(loaded: Loaded, corpus: Path) -> None:
    utterances = sets(corpus / "first", "dev", None)["first"]
    together, single = (
        evaluate(Recognizer(loaded.model, loaded.tokenizer, slots=slots), utterances, 6) for slots in (3, 1)
    )
    assert together.score == single.score
    assert sorted(together.delays) == sorted(single.delays)


def test_a_longer_lookahead_is_later(run: Callable[..., Any], corpus: Path) -> None:
    _, rows, _ = run(corpus / "first", "--lookahead", "offline,1040,0")
    offline, long, none = (row["emission_delay_ms"]["p50"] for row in rows)
    assert none < 100 < long < offline
    assert offline > 1000  # a short recording comes out when it ends


def test_a_row_has_the_keys_that_scripts_rely_on(run: Callable[..., Any], corpus: Path) -> None:
    code, rows, _ = run(corpus, "--lookahead", "offline,80")
    assert code == 0
    assert [(row["set"], row["lookahead_ms"]) for row in rows] == [
        ("first", 5520),
        ("first", 80),
        ("second", 5520),
        ("second", 80),
    ]
    for one in rows:
        assert {"set", "lookahead_ms", "wer", "cer", "emission_delay_ms", "rtfx"} <= one.keys()
        assert one["emission_delay_ms"].keys() == {"p50", "p95"}
        wrong = one["substituted"] + one["deleted"] + one["inserted"]
        assert one["wer"] == pytest.approx(wrong / one["words"], abs=1e-6)
        assert one["rtfx"] > 0
    assert rows[0]["words"] == len(" ".join(TEXTS).split())


def test_the_table_has_a_line_a_row_of_equal_width(quick: Path, corpus: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert cli.main(["evaluate", str(corpus), "--model", str(quick), "--device", "cpu", "--lookahead", "80,0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:2] == ["set", "lookahead"]
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[:2] for line in lines[1:]] == [["first", "80"], ["first", "0"], ["second", "80"],
                                                        ["second", "0"]]  # fmt: skip


def test_the_interval_is_over_speakers_where_there_are_many() -> None:
    def groups(speakers: int) -> list[Errors]:
        return Result([(str(i % speakers), score("a b", "a")) for i in range(40)]).groups

    assert len(groups(2)) == 40
    assert groups(20) == [Errors(0, 2, 0, 4)] * 20


def test_a_row_says_how_sure_it_is(run: Callable[..., Any], corpus: Path) -> None:
    _, rows, _ = run(corpus / "first", "--lookahead", "480", "--no-gate", "--hotwords", "ruvo, mu")
    low, high = rows[0]["wer_interval"]
    assert low <= rows[0]["wer"] <= high
    assert rows[0]["made_up_per_minute"] is None


def test_only_the_first_of_each_set_when_limited(run: Callable[..., Any], corpus: Path) -> None:
    _, rows, _ = run(corpus, "--limit", "1", "--lookahead", "0")
    assert [row["seconds"] for row in rows] == [1.3, 1.3]


def test_a_recording_that_cannot_be_read_is_named_and_the_others_count(run: Callable[..., Any], corpus: Path) -> None:
    (corpus / "first" / "2.wav").write_bytes(b"not audio")
    code, rows, error = run(corpus / "first" / "manifest.tsv", "--lookahead", "80,0")
    assert code == 1
    assert error.count(str(corpus / "first" / "2.wav")) == 1
    assert [row["failed"] for row in rows] == [1, 1]
    assert rows[0]["words"] == len(" ".join(TEXTS).split()) - 4


def test_noise_without_words_has_no_rate_to_report(run: Callable[..., Any], tmp_path: Path,
                                                   write: Callable[..., Path]) -> None:  # fmt: skip
    path = write("noises/a.wav", noise(1))
    manifest.write(tmp_path / "noises" / manifest.NAME, [Utterance(path, 1, 16000, "-", "dev", "")])
    code, rows, _ = run(tmp_path / "noises", "--lookahead", "0")
    assert code == 0
    assert rows[0]["wer"] is rows[0]["wer_interval"] is None
    assert rows[0]["made_up_per_minute"] > 0


def test_noise_among_speech_leaves_word_errors_and_their_interval_alone() -> None:
    def heard(speaker: str, text: str, words: str) -> Session:
        return Session(Utterance(Path("x"), 1, 16000, speaker, "dev", text), iter(()), words=words.split())

    result = Result()
    for i in range(12):
        result.take(heard(f"s{i}", "a b c", "a b"), 16000)
    alone = row("mixed", lookahead("480"), result, Clock())
    for _ in range(3):
        result.take(heard("-", "", "x y"), 16000)
    mixed = row("mixed", lookahead("480"), result, Clock())
    assert alone["wer_interval"] == mixed["wer_interval"] == [pytest.approx(1 / 3, abs=1e-6)] * 2
    assert alone["wer"] == mixed["wer"]
    assert mixed["made_up_per_minute"] == 120


def test_what_cannot_be_scored_is_named(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadManifest, match="there is dev, train"):
        sets(corpus, "test", None)
    assert cli.main(["evaluate", str(tmp_path / "nowhere.tsv")]) == 1
    assert "nowhere.tsv" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["m", "--lookahead", "0,x"], ["m", "--limit", "0"], ["m", "--sessions", "none"]])
def test_bad_usage_exits_with_2(argv: list[str]) -> None:
    assert cli.main(["evaluate", *argv]) == 2


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([], 50) is None
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(list(range(1, 101)), 95) == 95
