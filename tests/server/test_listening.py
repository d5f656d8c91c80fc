"""The user's side alone: what is fed to the rooms, and that the pace at which audio comes changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from talks import Talk, types

from vivavoce.server import listening, signals
from vivavoce.speech.turn import SpeechEnded, SpeechStarted


def fed(talk: Talk) -> dict[int, int]:
    """Samples a stream was given."""
    out: dict[int, int] = {}
    for action in talk.all(signals.Hear):
        out[action.stream] = out.get(action.stream, 0) + len(action.pcm)
    return out


def at_16k(talk: Talk) -> Talk:
    audio = {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}
    talk.send("session.update", session={"type": "transcription", "audio": audio})
    return talk


def test_the_same_audio_is_heard_the_same_however_fast_it_comes() -> None:
    sound = np.arange(64_000).astype("<i2")
    heard = []
    for size in (512, 64_000):  # a window at a time, or all before the voice room has seen any
        talk = at_16k(Talk("transcription"))
        for begin in range(0, 64_000, size):
            talk.frame(sound[begin : begin + size].tobytes())
            if size == 512:
                seen = begin + size
                talk.room(signals.Voiced(1, seen, when(begin, seen)))
        if size != 512:
            talk.room(signals.Voiced(1, 64_000, when(0, 64_000)))
        pcm = np.concatenate([a.pcm for a in talk.all(signals.Hear)])
        heard.append(
            (np.rint(pcm * 32768).astype(int), talk.event("input_audio_buffer.speech_started")["audio_start_ms"])
        )
    assert np.array_equal(heard[0][0], heard[1][0])
    assert heard[0][1] == heard[1][1] == (10_240 - 4800) // 16
    assert (heard[0][0][0], heard[0][0][-1]) == (10_240 - 4800, 40_959 - 65_536)  # padding and all


def test_what_must_be_part_of_the_utterance_is_heard_before_it_was_watched() -> None:
    sound, talk, ahead = np.arange(64_000).astype("<i2"), at_16k(Talk("transcription")), list[int]()
    for seen in range(512, 64_001, 512):
        talk.frame(sound[seen - 512 : seen].tobytes())
        speaking = 12_288 <= seen < 40_960
        behind = max(0, seen - 2048)  # the voice room is late
        certain = min(behind, 32_768) + 8000 if 12_288 <= behind < 40_960 else 0
        talk.room(signals.Voiced(1, behind, when(behind - 512, behind), certain))
        if speaking and seen > 16_384:
            ahead.append(10_240 - 4800 + sum(len(a.pcm) for a in talk.all(signals.Hear)) - behind)
    assert min(ahead[:8]) >= 1536  # all but the newest block, which was not there yet when it was certain
    pcm = np.concatenate([a.pcm for a in talk.all(signals.Hear)])
    assert np.array_equal(np.rint(pcm * 32768).astype("<i2"), sound[10_240 - 4800 : 40_960])  # and not a sample more


def test_no_certainty_reaches_beyond_a_commit() -> None:
    talk = Talk("transcription")
    talk.starts()
    talk.audio(100)
    talk.send("input_audio_buffer.commit")
    at = talk.conversation.listener.total
    talk.room(signals.Voiced(1, 1024, (), at + 8000))
    talk.audio(400)  # said after it
    assert sum(fed(talk).values()) == at


def when(begin: int, end: int) -> tuple[SpeechStarted | SpeechEnded, ...]:
    """The voice's events of these windows."""
    started = [SpeechStarted(10_240)] if begin < 12_288 <= end else []
    ended = [SpeechEnded(32_768, 40_960, "silence")] if begin < 40_960 <= end else []
    return (*started, *ended)


def test_a_commit_during_speech_takes_all_that_was_sent() -> None:
    talk = Talk("transcription")
    talk.starts()
    talk.audio(400)
    assert talk.send("input_audio_buffer.commit") == []  # what was sent is still to be watched
    at = talk.conversation.listener.total
    events = talk.room(signals.Voiced(1, at - at % 512, ()))
    assert types(events)[:2] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
    assert sum(fed(talk).values()) == at


def test_a_commit_of_nothing_is_an_error_unless_words_are_on_their_way() -> None:
    talk = Talk("transcription")
    assert talk.send("input_audio_buffer.commit")[0]["error"]["code"] == "input_audio_buffer_commit_empty"
    talk.starts()
    talk.stops()
    assert talk.send("input_audio_buffer.commit") == []


def test_a_commit_that_turns_out_empty_is_told_under_its_own_name() -> None:
    talk = Talk("transcription")
    talk.audio(100)
    assert talk.send("input_audio_buffer.commit", event_id="first") == []  # somebody may be speaking in it
    talk.audio(100)
    assert talk.send("input_audio_buffer.commit", event_id="second") == []
    events = talk.room(signals.Voiced(1, talk.conversation.listener.total, ()))
    assert [e["error"]["event_id"] for e in events] == ["first", "second"]
    talk.audio(100)
    talk.send("input_audio_buffer.commit", event_id="third")
    events = talk.send("input_audio_buffer.clear")  # no commit stays unanswered
    assert [e.get("error", {}).get("event_id") for e in events] == ["third", None]


def test_a_commit_does_not_take_what_is_said_after_it() -> None:
    talk = Talk("transcription")
    talk.audio(500)
    talk.send("input_audio_buffer.commit", event_id="before")
    talk.audio(1000)
    at = talk.conversation.listener.total // 512 * 512
    events = talk.room(signals.Voiced(1, at, (SpeechStarted(10_240),)))
    assert types(events) == ["error", "input_audio_buffer.speech_started"]
    assert talk.conversation.listener.open is not None


def test_a_cut_utterance_says_no_word_twice() -> None:
    talk = Talk("transcription")
    talk.audio(1000)
    at = talk.conversation.listener.total
    cut = at // 512 * 512
    talk.room(signals.Voiced(1, at, (SpeechStarted(0), SpeechEnded(cut, cut, "length"), SpeechStarted(cut))))
    assert [s.stream for s in talk.all(signals.StartHearing)] == [2, 3]
    first = talk.all(signals.Hear)[0]
    assert (first.stream, len(first.pcm)) == (2, cut)
    assert sum(fed(talk).values()) == at  # and no sample is heard by both


def test_audio_that_nobody_watches_is_bounded() -> None:
    talk = Talk("transcription")
    errors = [talk.frame(bytes(48_000 * 10)) for _ in range(15)]
    assert talk.conversation.backlog <= listening.UNWATCHED + 10 * 16_000
    assert errors[-1][0]["error"]["code"] == "input_audio_buffer_full"


def test_an_hour_of_talk_leaves_nothing_behind() -> None:
    talk = Talk("transcription")
    for _ in range(600):
        talk.turn("some words")
        talk.audio(5300)
        talk.voice()
    listener = talk.conversation.listener
    assert listener.total == pytest.approx(600 * 6 * 16_000, abs=listening.KEPT)
    assert len(listener._recent) <= listening.KEPT + 300 * listening.MS + 512
    assert not listener.settling
    stops = [e["audio_end_ms"] for e in talk.events if e["type"] == "input_audio_buffer.speech_stopped"]
    assert stops[-1] - stops[0] == pytest.approx(599 * 6000, abs=1)  # and times do not drift


def test_a_watch_that_breaks_down_is_begun_anew() -> None:
    talk = Talk()
    talk.starts()
    events = talk.room(signals.Unwatched(1, "out of memory"))
    assert types(events)[:2] == ["error", "input_audio_buffer.speech_stopped"]
    talk.audio(100)
    assert talk.last(signals.StartWatching).watch != 1


def test_last_words_that_never_come_are_given_up() -> None:
    talk = Talk("transcription")
    talk.starts()
    talk.stops()
    events = talk.wait(31_000)
    assert types(events) == ["conversation.item.input_audio_transcription.failed"]
    assert isinstance(talk.actions[-1], signals.CloseHearing)


def test_the_lookahead_is_the_clients_and_changes_under_way() -> None:
    talk = Talk("transcription")
    talk.starts()
    assert talk.last(signals.StartHearing).lookahead == 6
    talk.send("session.update", session={"type": "transcription", "vivavoce": {"lookahead_ms": 170}})
    assert talk.last(signals.SetLookahead).lookahead == 2
