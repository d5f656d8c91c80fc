"""The user's side of a conversation: audio in, utterances out.

With turn detection, audio goes to the voice room, and to the recogniser as far as that has found the utterance to go on
for certain, so that the same audio gives the same words whatever the pace it comes at. Without, all audio is one
utterance until the client commits it. Each utterance is one stream of the recogniser and becomes one item. What
happened comes back as `Note`s for the conversation to act on. Positions are samples at 16 kHz since the session began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vivavoce.speech import turn
from vivavoce.speech.asr.words import Word
from vivavoce.speech.turn import TurnConfig
from vivavoce.speech.vad import WINDOW
from vivavoce.streaming.clock import Clock

from . import events, signals
from .lookahead import Lookahead
from .outbox import Outbox, Problem
from .settings import AudioInput, Extension, Format, SemanticVad, ServerVad
from .signals import HEARING_RATE, Pcm
from .sound import Ear
from .turn_words import completeness
from .utterance import Began, Changed, Ended, Note, Settled, Utterance

NS = 1_000_000_000
MS = HEARING_RATE // 1000
KEPT = 4096  # samples before what was watched: the shortest speech, and a window
UNWATCHED = 120 * HEARING_RATE  # samples that may wait for the voice room
SHORTEST = HEARING_RATE // 10  # of an utterance that a client may commit
LONGEST = 600 * HEARING_RATE  # after which an utterance is cut
SEMANTIC_SILENCE = 320 * MS  # before words are asked whether the turn is over
# ms of silence more that what was said is worth, by eagerness
PATIENCE = {
    "low": {"complete": 400, "open": 1500, "unfinished": 8000},
    "medium": {"complete": 0, "open": 600, "unfinished": 4000},
    "high": {"complete": 0, "open": 200, "unfinished": 2000},
}
SETTLING = 30 * NS  # how long the recogniser may take over the last words


class Listener:
    """configure it before the first audio."""

    def __init__(self, outbox: Outbox, format: Format) -> None:
        self._out, self._ear, self._clock = outbox, Ear(format), Clock()
        self._input, self._logprobs = AudioInput(), False
        self._lookahead, self._looking = Lookahead(), 0
        self._recent: Pcm = np.zeros(0, np.float32)  # the audio from `_recent_from` to `total`
        self._recent_from = self.total = 0
        self._watch: int | None = None
        self._watch_base = self._watched = 0
        self._certain = 0  # an open utterance cannot end before this
        self._last_stop = 0  # where the speech of the last utterance ended
        self._commits: list[tuple[int, str | None]] = []  # the client's that wait: all it had sent by then, event id
        self.open: Utterance | None = None
        self.settling: dict[int, Utterance] = {}

    @property
    def detection(self) -> ServerVad | SemanticVad | None:
        return self._input.turn_detection

    @property
    def backlog(self) -> int:
        """Samples at 16 kHz that wait for the voice room: a shell does well to read no more while it is long."""
        return self.total - self._watched if self._watch is not None else 0

    def configure(self, input: AudioInput, extension: Extension, logprobs: bool, now: int) -> list[Note]:
        """What the session's settings say from here on."""
        notes: list[Note] = []
        before, self._input, self._logprobs = self._input, input, logprobs
        if input.format != self._ear.format:
            notes += self._take(self._ear.flush())
            self._ear = Ear(input.format)
        if (before.turn_detection is None) != (input.turn_detection is None):
            notes += self._end(self.total, now) if self.open else []
            self._unwatch()
        elif before.turn_detection != input.turn_detection and self._watch is not None:
            self._out.put(signals.ConfigureWatching(self._watch, self._rule()))
            self._certain = 0  # that was by the rule before
        frames, _ = self._clock.lookahead_frames(extension.lookahead_ms)
        self._lookahead.set(frames, extension.adaptive_lookahead)
        self._look()
        return notes

    def append(self, data: bytes) -> list[Note]:
        """Raises Problem when the voice room is too far behind."""
        if self.backlog > UNWATCHED:
            raise Problem("input_audio_buffer_full", f"more than {UNWATCHED // HEARING_RATE} s of audio wait to be "
                          "heard and this was dropped; send audio no faster than it is spoken")  # fmt: skip
        return self._take(self._ear.push(data))

    def commit(self, event_id: str | None, now: int) -> list[Note]:
        """The client ends the utterance. Raises Problem when there is none, or next to none; where turns are detected,
        that shows, and is told, only once the audio was watched."""
        if self.detection is None:
            notes = self._take(self._ear.flush())
            if self.open is None or self.total - self.open.start < SHORTEST:
                raise _nothing_to_commit()
            return notes + self._end(self.total, now)
        self._commits.append((self.total, event_id))
        return self._committed(self.total if self._watch is None else self._watched + WINDOW - 1, now)

    def clear(self) -> None:
        """Forget what was not committed."""
        self._drop()
        self._ear.flush()
        self._unwatch()
        self._out.put(events.Cleared())

    def transcribe(self, item_id: str, data: bytes, now: int) -> None:
        """An utterance that a client brought whole, as an item. Raises Problem for one without sound."""
        ear = Ear(self._input.format)
        pcm = np.concatenate([ear.push(data), ear.flush()])
        if not len(pcm):
            raise Problem("invalid_value", "the audio holds no samples", "item.content")
        utterance = Utterance(item_id, self._out.number(), 0, len(pcm), True, stop=len(pcm), decided=now)
        self._out.put(signals.StartHearing(utterance.stream, self._looking))
        self._out.put(signals.Hear(utterance.stream, pcm))
        self._out.put(signals.FinishHearing(utterance.stream))
        self.settling[utterance.stream] = utterance

    def voiced(self, voiced: signals.Voiced, now: int) -> list[Note]:
        if voiced.watch != self._watch:
            return []
        notes: list[Note] = []
        for event in voiced.events:
            at = min(self._watch_base + event.at_sample, self.total)
            if isinstance(event, turn.SpeechStarted):
                notes += self._committed(at, now) + self._speech_started(at)
            else:
                notes += self._speech_ended(at, self._watch_base + event.decided_at, event.reason, now)
        self._watched = max(self._watched, min(self._watch_base + voiced.at_sample, self.total))
        self._certain = self._watch_base + voiced.certain if self.open else 0
        self._feed_ahead()
        self._trim()
        return notes + self._committed(self._watched + WINDOW - 1, now)  # less than a window is never watched

    def unwatched(self, failed: signals.Unwatched, now: int) -> list[Note]:
        """Voice activity broke down: a fresh watch starts with the next audio."""
        if failed.watch != self._watch:
            return []
        self._out.refuse(Problem("voice_activity_failed", f"{failed.message}; listening starts anew"))
        if self.open:
            self._commits.clear()  # as they wished
        notes = self._end(self.total, now) if self.open else []
        self._forget()
        return notes

    def heard(self, heard: signals.Heard) -> list[Note]:
        utterance = self._of(heard.stream)
        if utterance is None:
            return []
        new = [w for w in heard.words if utterance.cut is None or utterance.start + w.start_sample < utterance.cut]
        changed = bool(new) or heard.tail != utterance.tail
        if changed:
            self._delta(utterance, new, heard)
        utterance.words += new
        utterance.tail = "" if heard.last else heard.tail
        notes: list[Note] = [Changed(utterance, bool(new))] if changed else []
        if changed and utterance is self.open and self._watch is not None:
            at = utterance.start + heard.at_sample - self._watch_base
            self._out.put(signals.TextChanged(self._watch, max(0, at)))
        self._lookahead.heard(new)
        self._look()
        if heard.last:
            utterance.over = True
        return notes + (self._settle(utterance) if heard.stream in self.settling and heard.last else [])

    def deaf(self, deaf: signals.Deaf) -> list[Note]:
        """The recogniser gave up on a stream; what it had heard stands."""
        utterance = self._of(deaf.stream)
        if utterance is None:
            return []
        utterance.over, utterance.failed, utterance.tail = True, True, ""
        error = events.ErrorInfo(type="server_error", code="transcription_failed", message=deaf.message)
        if self._input.transcription is not None:
            self._out.put(events.TranscriptionFailed(item_id=utterance.item_id, error=error))
        return self._settle(utterance) if deaf.stream in self.settling else []

    def check(self, now: int) -> list[Note]:
        """End a turn whose silence has lasted long enough for its words (semantic turn detection), and give up on last
        words that do not come."""
        late = [u.stream for u in self.settling.values() if now >= (u.decided or now) + SETTLING]
        notes: list[Note] = []
        for stream in late:
            self._out.put(signals.CloseHearing(stream))
            notes += self.deaf(signals.Deaf(stream, "its last words did not come"))
        due = self._turn_due
        if due is not None and now >= due and self.open is not None:
            notes += self._end(self.open.stop or self._watched, now)
        return notes

    @property
    def due(self) -> int | None:
        """ns when `check` will have something to do."""
        times = [u.decided + SETTLING for u in self.settling.values() if u.decided is not None]
        return min([*times, *([self._turn_due] if self._turn_due is not None else [])], default=None)

    @property
    def _turn_due(self) -> int | None:
        if self.open is None or self.open.quiet_since is None or not isinstance(self.detection, SemanticVad):
            return None
        eagerness = "medium" if self.detection.eagerness == "auto" else self.detection.eagerness
        said = f"{self.open.text} {self.open.tail}".strip()
        return self.open.quiet_since + PATIENCE[eagerness][completeness(said)] * 1_000_000

    def close(self) -> None:
        """Let go of every stream and watch."""
        self._drop()
        for stream in self.settling:
            self._out.put(signals.CloseHearing(stream))
        self.settling.clear()
        self._unwatch()

    def _take(self, pcm: Pcm) -> list[Note]:
        if not len(pcm):
            return []
        begun: list[Note] = []
        start, self.total = self.total, self.total + len(pcm)
        if self.detection is None:
            if self.open is None:
                begun = self._begin(start, start, manual=True)
            self._hear(pcm)
            self._recent_from = self.total
            return begun
        if self._watch is None:
            self._watch, self._watch_base, self._watched = self._out.number(), start, start
            self._recent, self._recent_from = pcm[:0], start
            self._out.put(signals.StartWatching(self._watch, self._rule()))
        self._recent = np.concatenate([self._recent, pcm])
        self._out.put(signals.Watch(self._watch, pcm))
        self._feed_ahead()
        return begun

    def _speech_started(self, at: int) -> list[Note]:
        if self.open is not None:  # it goes on after a pause
            self.open.quiet_since = None
            return []
        padding = self.detection.prefix_padding_ms * MS if isinstance(self.detection, ServerVad) else 300 * MS
        start = max(at - padding, self._last_stop, self._recent_from)
        return self._begin(start, start, manual=False)

    def _speech_ended(self, at: int, decided_at: int, reason: str, now: int) -> list[Note]:
        if self.open is None or self.open.manual:
            return []
        self._feed(min(decided_at, self.total))
        self.open.stop, self.open.silence = max(at, self.open.start), decided_at - at
        if reason == "silence" and isinstance(self.detection, SemanticVad):
            self.open.quiet_since = now
            return self.check(now)
        if reason == "length":
            self.open.cut = at
        return self._end(self.open.stop, now)

    def _begin(self, start: int, fed: int, *, manual: bool) -> list[Note]:
        self.open = Utterance(self._out.name("item"), self._out.number(), start, fed, manual)
        if not manual:
            self._out.put(events.SpeechStarted(audio_start_ms=start // MS, item_id=self.open.item_id))
        self._out.put(signals.StartHearing(self.open.stream, self._looking))
        return [Began(self.open)]

    def _feed_ahead(self) -> None:
        """What was watched, and what will be part of the utterance whatever it holds."""
        ahead = min([self._certain, *(at for at, _ in self._commits[:1])])
        self._feed(min(max(self._watched, ahead), self.total))

    def _feed(self, upto: int) -> None:
        if self.open is not None and not self.open.manual and upto > self.open.fed:
            begin = self.open.fed - self._recent_from
            self._hear(self._recent[begin : upto - self._recent_from])

    def _hear(self, pcm: Pcm) -> None:
        assert self.open is not None
        self.open.fed += len(pcm)
        if not self.open.over:
            self._out.put(signals.Hear(self.open.stream, pcm))

    def _end(self, stop: int, now: int) -> list[Note]:
        utterance, self.open, self._certain = self.open, None, 0
        assert utterance is not None
        utterance.stop, utterance.decided = stop, now
        utterance.waited, utterance.quiet_since = now - (utterance.quiet_since or now), None
        self._last_stop = min(stop, self.total)
        if not utterance.manual:
            self._out.put(events.SpeechStopped(audio_end_ms=stop // MS, item_id=utterance.item_id))
        ended: list[Note] = [Ended(utterance)]
        self.settling[utterance.stream] = utterance
        if utterance.over:
            return ended + self._settle(utterance)
        self._out.put(signals.FinishHearing(utterance.stream))
        return ended

    def _settle(self, utterance: Utterance) -> list[Note]:
        del self.settling[utterance.stream]
        if not utterance.failed and self._input.transcription is not None:
            seconds = ((utterance.stop or utterance.fed) - utterance.start) / HEARING_RATE
            logprobs = _logprobs(utterance.words) if self._logprobs else None
            self._out.put(
                events.TranscriptionCompleted(
                    item_id=utterance.item_id,
                    transcript=utterance.text,
                    usage=events.Duration(seconds=seconds),
                    logprobs=logprobs,
                )
            )
        return [Settled(utterance)]

    def _committed(self, upto: int, now: int) -> list[Note]:
        """A client that detects turns too has said that one is over; all it had sent by then counts."""
        notes: list[Note] = []
        while self._commits and self._commits[0][0] <= upto:
            at, event_id = self._commits.pop(0)
            if self.open is not None:
                self._feed(at)
                notes += self._end(max(at, self.open.fed), now)
            elif not self.settling:
                self._out.refuse(_nothing_to_commit(), event_id)
        return notes

    def _delta(self, utterance: Utterance, new: Sequence[Word], heard: signals.Heard) -> None:
        if self._input.transcription is None:
            return
        delta = " ".join(w.word for w in new)
        tail = events.Tail(tail=heard.tail, end_ms=(utterance.start + heard.at_sample) // MS)
        self._out.put(events.TranscriptionDelta(
            item_id=utterance.item_id, delta=f" {delta}" if delta and utterance.words else delta,
            logprobs=_logprobs(new) if self._logprobs else None, vivavoce=tail))  # fmt: skip

    def _look(self) -> None:
        """Tell the recogniser when the lookahead is another."""
        if self._lookahead.frames != self._looking:
            self._looking = self._lookahead.frames
            if self.open is not None and not self.open.over:
                self._out.put(signals.SetLookahead(self.open.stream, self._looking))

    def _rule(self) -> TurnConfig:
        if isinstance(self.detection, ServerVad):
            threshold = max(self.detection.threshold, 0.01)
            silence = self.detection.silence_duration_ms * MS  # what it says is what it gets: no waiting for text
            return TurnConfig(threshold=threshold, hysteresis=min(0.15, threshold / 2), end_silence=silence,
                              end_blank=0, max_silence=max(silence, 24000), max_utterance=LONGEST)  # fmt: skip
        return TurnConfig(end_silence=SEMANTIC_SILENCE, max_utterance=LONGEST)

    def _trim(self) -> None:
        """Keep what the next utterance may begin with."""
        padding = self.detection.prefix_padding_ms * MS if isinstance(self.detection, ServerVad) else 300 * MS
        keep = self._watched - KEPT - padding
        if self.open is not None:
            keep = min(keep, self.open.fed)
        if keep > self._recent_from:
            self._recent, self._recent_from = self._recent[keep - self._recent_from :].copy(), keep

    def _drop(self) -> None:
        if self.open is not None and not self.open.over:
            self._out.put(signals.CloseHearing(self.open.stream))
        self.open, self._certain = None, 0

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._out.put(signals.StopWatching(self._watch))
        self._forget()

    def _forget(self) -> None:
        for _, event_id in self._commits:
            self._out.refuse(_nothing_to_commit(), event_id)
        self._commits.clear()
        self._watch = None
        self._recent, self._recent_from = self._recent[:0], self.total

    def _of(self, stream: int) -> Utterance | None:
        if self.open is not None and self.open.stream == stream:
            return None if self.open.over else self.open
        return self.settling.get(stream)


def _logprobs(words: Sequence[Word]) -> list[events.LogProb]:
    """A word stands for the protocol's token."""
    return [
        events.LogProb(token=w.word, bytes=list(w.word.encode()), logprob=math.log(max(w.confidence, 1e-9)))
        for w in words
    ]


def _nothing_to_commit() -> Problem:
    return Problem("input_audio_buffer_commit_empty", "there is no speech to commit; send at least 100 ms of audio")
