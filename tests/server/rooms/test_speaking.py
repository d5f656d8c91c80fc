"""Many who speak with one voice: each its own sound, no further ahead than its listener, and faults to themselves."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest
from hum import RATE, Hum, Speech, hum
from numpy.typing import NDArray

from vivavoce.server.rooms.room import Busy
from vivavoce.server.rooms.speaking import Hoarse, SpeakingRoom, Spoken, pieces

Sink = SimpleQueue[Spoken | Hoarse]
LONG = "and so they sailed on " * 200


def whole(sink: Sink) -> tuple[NDArray[np.float32], list[str]]:
    """All the sound and words of a session that ends by itself."""
    pcm, words = [], list[str]()
    while True:
        event = sink.get(timeout=300)
        assert isinstance(event, Spoken), event
        pcm.append(event.pcm)
        words += [word.word for word in event.words]
        if event.last:
            return np.concatenate(pcm), words


def test_everyone_hears_their_own_text_whatever_its_pieces() -> None:
    texts = ["one two three", "four", "five six seven eight nine "]
    with SpeakingRoom(Hum(slots=3), 3) as room:
        sinks = [Sink() for _ in texts]
        for sink, text, size in zip(sinks, texts, (1, 3, 100), strict=True):
            speaking = room.open(sink.put)
            for i in range(0, len(text), size):
                speaking.say(text[i : i + size])
            speaking.finish()
        for sink, text in zip(sinks, texts, strict=True):
            pcm, words = whole(sink)
            assert np.array_equal(pcm, np.concatenate([hum(w) for w in pieces_of_words(text)]))
            assert words == text.split()
        assert room.ask(lambda: room.taken).result(60) == 0


def pieces_of_words(text: str) -> list[str]:
    return [f"{word} " for word in text.split(" ")[:-1]] + [text.split(" ")[-1]]


def test_text_waits_until_the_listener_has_taken_what_was_said() -> None:
    voice = Hum()
    with SpeakingRoom(voice, 4, lead=2.0) as room:
        sink = Sink()
        speaking = room.open(sink.put)
        speaking.say(LONG)
        speaking.finish()
        room.ask(lambda: None).result(60)
        while room.ask(lambda: room.tick()).result(60):
            pass
        assert speaking.made < 2.0 * RATE + 240 * 200
        pushed = voice.pushed
        assert pushed < len(LONG)
        speaking.took(speaking.made)
        room.ask(lambda: None).result(60)
        while room.ask(lambda: room.tick()).result(60):
            pass
        assert pushed < voice.pushed < len(LONG)
        speaking.took(10**9)
        pcm, _ = whole(sink)
        assert len(pcm) == len(LONG) * 240


def test_who_is_closed_falls_silent_and_gives_the_place_back() -> None:
    voice = Hum(slots=1)
    with SpeakingRoom(voice, 1) as room:
        speaking = room.open(Sink().put)
        speaking.say("never ended")
        with pytest.raises(Busy):
            room.open(Sink().put)
        speaking.close()
        speaking.close()
        speaking.say("too late")
        room.ask(lambda: None).result(60)
        assert not voice.sessions
        sink = Sink()
        other = room.open(sink.put)
        other.say("now")
        other.finish()
        assert whole(sink)[1] == ["now"]


def test_a_text_that_cannot_be_read_ends_its_own_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with SpeakingRoom(Hum(), 4) as room:
        good, bad = Sink(), Sink()
        speaking = room.open(good.put)
        room.open(bad.put).say("<wrong")
        event = bad.get(timeout=300)
        assert isinstance(event, Hoarse)
        assert "cannot read" in str(event.error)
        speaking.say("still here")
        speaking.finish()
        assert whole(good)[1] == ["still", "here"]


def test_a_session_the_voice_fails_on_ends_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    voice, good, bad = Hum(), Sink(), Sink()
    step = voice.step

    def failing() -> dict[int, Speech]:
        return {slot: replace(speech, done=True, error=ValueError("no plan")) if slot == 2 else speech
                for slot, speech in step().items()}  # fmt: skip

    monkeypatch.setattr(voice, "step", failing)
    with SpeakingRoom(voice, 4) as room:
        speaking = [room.open(sink.put) for sink in (good, bad)]
        for one in speaking:
            one.say("still here")
            one.finish()
        event = bad.get(timeout=300)
        assert isinstance(event, Hoarse)
        assert "no plan" in str(event.error)
        assert whole(good)[1] == ["still", "here"]
        assert room.ask(lambda: room.taken).result(60) == 0
    assert "no plan" in caplog.text


def test_a_voice_that_fails_ends_who_was_speaking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    voice, sink = Hum(), Sink()
    monkeypatch.setattr(voice, "step", lambda: 1 // 0)
    with SpeakingRoom(voice, 4) as room:
        room.open(sink.put).say("hm")
        assert isinstance(sink.get(timeout=300), Hoarse)
        assert room.taken == 0
    assert "failed for 1 sessions" in caplog.text


def test_pieces_are_the_text_again_cut_between_words() -> None:
    assert "".join(pieces(LONG)) == LONG
    assert max(map(len, pieces(LONG))) <= 160
    assert pieces("") == []
    assert "".join(pieces("x" * 1000)) == "x" * 1000
