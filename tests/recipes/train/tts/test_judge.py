"""Counting what judges heard, and the sentences they hear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_voice import ToyVoice

from vivavoce.recipes.train.tts import judge as module
from vivavoce.recipes.train.tts.judge import (
    OURS,
    Hearing,
    Hearings,
    Said,
    Sentence,
    difference,
    echoes,
    gaps,
    judge,
    rows,
    sentences,
    table,
    worst,
)
from vivavoce.speech.text import normalize
from vivavoce.speech.tts.synthesizer import Synthesizer


def test_there_are_two_hundred_sentences_of_the_kinds_that_go_wrong() -> None:
    by_set = {name: [s.text for s in sentences() if s.set == name] for name in {s.set for s in sentences()}}
    assert {name: len(texts) for name, texts in by_set.items()} == {
        "short": 40, "numbers": 40, "long": 20, "everyday": 40, "novels": 60,
    }  # fmt: skip
    assert len({s.text for s in sentences()}) == 200
    assert all(len(text.split()) <= 2 for text in by_set["short"])
    assert all(any(map(str.isdigit, text)) for text in by_set["numbers"])
    assert all(len(normalize(text).split()) > 60 for text in by_set["long"])
    assert [s.set for s in sentences(2)] == [name for name in dict.fromkeys(s.set for s in sentences()) for _ in "12"]


def test_words_nobody_heard_and_words_heard_twice_are_found() -> None:
    assert gaps("we go home now", "we home now") == {1}
    assert gaps("we go home now", "we see home now") == set()
    assert gaps("I know it", "i know") == {2}
    assert gaps("come in", "common") == set()  # swallowed by its neighbour, not skipped
    assert gaps("go", "") == {0}
    assert gaps("so so", "so") == {0, 1}  # either
    assert gaps("we go home now", "now") == {0, 1, 2}
    assert echoes("we go home now", "we go go home now") == {1}
    assert echoes("we go home now", "we go see home now") == set()


def test_a_word_counts_as_skipped_only_when_no_judge_heard_anything() -> None:
    told = [
        (Sentence("a", "we go home now"), {"one": "we home now", "two": "we gnu home now"}),
        (Sentence("a", "go on"), {"one": "on", "two": "on"}),
        (Sentence("b", "so so"), {"one": "so so so", "two": "so so so"}),
    ]
    heard = [(sentence, Hearing("x", sentence.text, 1.0, 0.0, texts)) for sentence, texts in told]
    found = {(row.set, row.judge): row for row in rows("x", heard)}
    assert (found["a", "one"].skipped, found["b", "two"].repeated) == (1, 1)
    assert found["all", "one"].sentences == 3
    assert found["a", "one"].wer == pytest.approx(2 / 6)
    assert found["a", "two"].low <= found["a", "two"].cer <= found["a", "two"].high
    assert table(list(found.values()))[2].startswith("| a, 2 | x | one | ")
    assert worst(heard, "one", 1)[2:] == ["| 60 | go on | on |"]
    assert rows("nobody", []) == []


def test_every_judge_hears_every_sentence_once(tmp_path: Path) -> None:
    def speak(text: str) -> Said:
        spoken.append(text)
        return Said(torch.full((24_000,), float(len(text))), 1e-6)

    spoken, by, given = list[str](), {"n": lambda pcm: str(int(pcm[0]))}, sentences(1)
    heard = Hearings(tmp_path / "heard.jsonl")
    judge("x", speak, by, given[:2], heard)
    heard = Hearings(tmp_path / "heard.jsonl")  # another run goes on where that one was cut
    judge("x", speak, by, given, heard)
    assert spoken == [s.text for s in given]
    of = Hearings(tmp_path / "heard.jsonl").of("x", given)
    assert [h.heard["n"] for _, h in of] == [str(len(s.text)) for s in given]
    assert {(h.seconds, h.difference) for _, h in of} == {(1.0, 1e-6)}


def test_streaming_is_compared_with_speaking_at_once() -> None:
    synthesizer, text = Synthesizer(ToyVoice()), "Word by word, as it is written: $3.50 to Mr. Smith!"
    pcm = synthesizer.speak(text).pcm
    assert difference(synthesizer, text, pcm) == 0.0
    assert difference(synthesizer, text, pcm + 0.25) == pytest.approx(0.25)
    assert difference(synthesizer, text, pcm[:-1]) == float("inf")


def test_the_command_prints_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                 tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text("a\n<!-- judge:begin -->\nold\n<!-- judge:end -->\nz\n")
    monkeypatch.setattr(module, "load_voice", lambda source: ToyVoice())
    monkeypatch.setattr(module, "judges", lambda model: {"deaf": lambda pcm: ""})
    monkeypatch.setattr(module, "PEERS", {})
    assert module.main(["--limit", "1", "--json", "--threads", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["streaming_difference"] == 0.0
    assert {row["set"] for row in told["rows"]} == {"short", "numbers", "long", "everyday", "novels", "all"}
    assert all(row["cer"] == 1.0 for row in told["rows"])
    assert module.main(["--limit", "1", "--threads", "1", "--only", OURS, "--worst", "2", "--into", str(document)]) == 0
    told = capsys.readouterr().out
    assert "largest difference 0.0e+00 of full scale" in told
    assert told.count("| 100 |") == 2
    assert "old" not in document.read_text()
    assert "| all, 5 | ours | deaf | 100.0 " in document.read_text()
