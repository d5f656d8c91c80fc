"""The clock of the speaking benchmark, and its rows."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from toy_voice import ToyVoice

from vivavoce.recipes import cli
from vivavoce.recipes.bench import tts
from vivavoce.recipes.bench.tts import AT_ONCE, WORDS, Figures, Listener, Plan, arrivals, cases, sessions
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.tts.synthesizer import Speech, Synthesizer


def sound(seconds: float, done: bool = False) -> Speech:
    return Speech(torch.zeros(round(1000 * seconds)), (), done)


def test_five_words_are_there_and_the_rest_is_written_one_by_one() -> None:
    when = [at for at, _ in arrivals()]
    assert when[:AT_ONCE] == [0.0] * AT_ONCE
    assert when[AT_ONCE : AT_ONCE + 3] == pytest.approx([0.1, 0.2, 0.3])
    assert "".join(word for _, word in arrivals()).split() == WORDS


def test_sound_that_comes_in_time_is_no_underrun_and_a_gap_is_one() -> None:
    listener = Listener([])
    listener.hear(sound(0), 0.5, 1000)
    assert listener.first is None
    listener.hear(sound(1.0), 1.0, 1000)  # plays from 1 to 2
    listener.hear(sound(1.0), 1.9, 1000)  # to 3
    assert (listener.first, listener.underruns) == (1.0, 0)
    listener.hear(sound(1.0), 3.5, 1000)  # half a second of silence; plays to 4.5
    listener.hear(sound(0.2, done=True), 4.4, 1000)
    assert (listener.underruns, listener.made, listener.done) == (1, pytest.approx(3.2), True)


@pytest.mark.parametrize(("tick", "underruns"), [(0.001, False), (2.0, True)])
def test_only_work_moves_the_clock(tick: float, underruns: bool) -> None:
    ticks = itertools.count()
    figures = Figures()
    sessions(Synthesizer(ToyVoice(), slots=2), 2, figures, now=lambda: tick * next(ticks))
    assert len(figures.first) == 2
    assert min(figures.first) >= tick
    assert bool(figures.underruns) == underruns
    assert figures.sound > 5
    assert figures.work == pytest.approx(tick * next(ticks) / 2, rel=0.1)


def test_rows_compare_with_each_peer_at_each_number_of_sessions() -> None:
    peers = {"espeak-ng": tts.Peer(0.01, 0.001)}
    rows = cases(ToyVoice(), "cpu", Plan(sessions=(1, 3), rounds=1), peers)
    assert len(rows) == 2 * 4
    first = rows[4]
    assert first.case == "cpu, 3 sessions: first audio after 5 words, median; espeak-ng"
    assert first.theirs == pytest.approx(30.0)
    assert first.ratio == pytest.approx(first.theirs / first.ours)
    assert rows[3].unit == ""
    assert rows[3].theirs == 0


def test_a_peer_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def missing(text: str, voice: object) -> None:
        raise MissingDependency("the program flite was not found; apt install flite")

    monkeypatch.setattr(tts.voices, "say", missing)
    assert tts._peer("flite") is None
    assert "flite is left out" in capsys.readouterr().err


def test_the_command_prints_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tts, "load_voice", lambda source, device: ToyVoice())
    monkeypatch.setattr(tts, "QUICK", Plan(sessions=(1,), rounds=1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "tts", "--quick", "--json", "--threads", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"case", "ours", "theirs", "unit", "ratio"} <= rows[0].keys()
    assert "underruns" in rows[-1]["case"]
