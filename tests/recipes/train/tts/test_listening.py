"""The page to listen at."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_voice import ToyVoice

from vivavoce.recipes.train.tts import judge, listening
from vivavoce.recipes.train.tts.judge import Sentence
from vivavoce.recipes.train.tts.listening import main, page
from vivavoce.speech import audio


def test_every_sentence_has_a_player_for_every_way_and_is_escaped() -> None:
    text = page("a & b", [Sentence("s", "1 < 2"), Sentence("s", "two")], ["at once", "flite"])
    assert "<h1>a &amp; b</h1>" in text
    assert '<td colspan="2">1 &lt; 2</td>' in text
    assert text.count("<audio ") == 4
    assert 'src="01-at-once.mp3"' in text


def test_the_command_writes_the_page_and_its_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "load_voice", lambda source: ToyVoice())
    monkeypatch.setattr(listening, "sentences", lambda most: [Sentence("s", "Hello there, my good old friend.")])
    monkeypatch.setattr(judge, "PEERS", {})
    assert main(["toy", "--out", str(tmp_path / "page")]) == 0
    assert sorted(p.name for p in (tmp_path / "page").iterdir()) == [
        "00-at-once.mp3", "00-streamed.mp3", "index.html",
    ]  # fmt: skip
    once, pieces = (audio.read(tmp_path / "page" / f"00-{way}.mp3", 24_000) for way in ("at-once", "streamed"))
    assert len(once) == len(pieces) > 24_000
