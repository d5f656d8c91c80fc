"""Who has the floor: barge-in, when a turn is answered, thinking while listening, and silence that lasts.

What the listener notes of the user's utterances comes in; the responder is paused, resumed, cut off or set going.
Speech over a reply pauses it at once; its words then decide whether it was an interruption. Times are ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import events, items, signals
from .history import Entry, History, Message
from .listening import Listener
from .outbox import Outbox, Problem
from .prompts import prompt, wanted
from .requests import ResponseParams
from .responding import Reason, Responder
from .settings import RealtimeSettings, ServerVad, TranscriptionSettings
from .turn_words import interrupts, is_backchannel
from .utterance import Began, Changed, Ended, Note, Utterance

MS = 1_000_000
DOUBT = 3_000 * MS  # how long a reply stays paused for sounds in which no words are heard
PLAYING = 1_000 * MS  # how often the voice is told what was played
NUDGE = "(The user has said nothing for a while.)"


@dataclass
class Barge:
    """Somebody speaks over a reply: in these utterances, of which none is known to be an interruption yet. allowed:
    whether it may become one; doubted: the reply went on after a while in which no word was understood."""

    since: int
    allowed: bool
    utterances: list[Utterance] = field(default_factory=list)
    doubted: bool = False


@dataclass
class Asked:
    """A response announced, for which the prompt is still to be made. own: the items it is to rest on instead of the
    conversation's; turn: the utterance it answers; added: messages for its prompt alone."""

    params: ResponseParams
    own: History | None
    turn: Utterance | None
    added: Sequence[Message] = ()

    @property
    def refers(self) -> bool:
        """Whether any of it is the conversation's, whose last words may still be to come."""
        return self.own is None or any(isinstance(given, items.Reference) for given in self.params.input or ())


class Floor:
    """prompt_chars: the most history in a prompt."""

    def __init__(
        self, outbox: Outbox, history: History, listener: Listener, responder: Responder, prompt_chars: int
    ) -> None:
        self._out, self._history, self._listener, self._responder = outbox, history, listener, responder
        self._prompt_chars = prompt_chars
        self.settings: RealtimeSettings | TranscriptionSettings = RealtimeSettings()
        self.barge: Barge | None = None
        self._asked: Asked | None = None
        self._owed: Utterance | None = None  # the turn that is still to be answered
        self._answers: Utterance | None = None  # the turn that the response in progress answers
        self._thought: list[Message] = []  # what the model was last given to read
        self._quiet_since: int | None = None  # since when nobody has spoken, after an answer
        self._nudged = True  # silence calls for an answer once, after one

    def note(self, notes: Sequence[Note], now: int) -> None:
        for note in notes:
            if isinstance(note, Began):
                self._began(note.utterance, now)
            elif isinstance(note, Changed):
                self._changed(note.utterance, now)
            elif isinstance(note, Ended):
                self._commit(note.utterance)
            else:
                self._settled(note.utterance, now)

    def respond(self, params: ResponseParams, now: int, turn: Utterance | None = None) -> None:
        """Announce a response; it begins when the words before it are all there. Raises Problem."""
        if not isinstance(self.settings, RealtimeSettings):
            raise Problem("invalid_event", "a transcription session gives no responses; connect to a realtime one")
        if self._responder.active is not None:
            raise Problem("conversation_already_has_active_response", "a response is in progress; wait until it is "
                          "done, or cancel it first")  # fmt: skip
        self._asked = Asked(params, self._own(params), turn)
        self._responder.create(wanted(self.settings, params), now)

    def interrupt(self, reason: Reason, now: int) -> None:
        """The reply is over, and only what was heard of it was said."""
        self.barge = None
        self._responder.interrupt(reason, now)
        if self._listener.open is not None:
            self._think(self._listener.open)

    def relent(self, now: int) -> None:
        """It was no interruption: the reply goes on."""
        self.barge = None
        self._responder.resume(now)

    def settle(self, now: int) -> None:
        """After anything has happened: begin what nothing stands in the way of any more."""
        if self._asked is not None and self._responder.active is None:  # it was cancelled before it began
            self._asked = None
        if self._responder.active is None and self._owed is not None and self._words_are_there(self._listener.open):
            turn, self._owed = self._owed, None
            self.respond(ResponseParams(), now, turn)
        if self._asked is not None and (not self._asked.refers or self._words_are_there()):
            self._begin(self._asked, now)
        self._measure()
        self._watch_silence(now)

    def check(self, now: int) -> None:
        """Time has passed."""
        barge = self.barge
        if barge is not None and self._doubt_at is not None and now >= self._doubt_at:
            barge.doubted = True
            self._responder.resume(now)
        self.settle(now)
        if self._nudge_at is not None and now >= self._nudge_at:
            self._nudge(now)

    @property
    def due(self) -> int | None:
        """When `check`, or the playback, will have something to do."""
        playback = self._responder.playback
        playing = playback.at + min(PLAYING, playback.remaining() + MS) if playback.playing else None
        times = [self._doubt_at, self._nudge_at, None if playback.paused else playing]
        return min((time for time in times if time is not None), default=None)

    @property
    def _doubt_at(self) -> int | None:
        barge = self.barge
        if barge is None or barge.doubted or not barge.allowed or any(u.text or u.tail for u in barge.utterances):
            return None
        return barge.since + DOUBT

    @property
    def _nudge_at(self) -> int | None:
        detection = self._listener.detection
        if self._nudged or self._quiet_since is None or not isinstance(detection, ServerVad):
            return None
        return None if detection.idle_timeout_ms is None else self._quiet_since + detection.idle_timeout_ms * MS

    def _began(self, utterance: Utterance, now: int) -> None:
        self._nudged = False
        detection = self._listener.detection
        if detection is None or not self._responder.audible:
            return
        if self.barge is None:
            self.barge = Barge(now, detection.interrupt_response)
        if self.barge.allowed and not self._responder.playback.paused:
            self.barge.since, self.barge.doubted = now, False
            self._responder.pause(now)
        self.barge.utterances.append(utterance)

    def _changed(self, utterance: Utterance, now: int) -> None:
        if self.barge is not None:
            if utterance in self.barge.utterances and self.barge.allowed and interrupts(utterance.text, utterance.tail):
                self.interrupt("turn_detected", now)
        else:
            self._think(utterance)

    def _think(self, utterance: Utterance) -> None:
        """Let the model read what is certain so far of what is being said."""
        detection = self._listener.detection
        answered = detection is None or detection.create_response
        if self._responder.active is not None or not isinstance(self.settings, RealtimeSettings) or not answered:
            return
        if utterance.text:
            messages = [*self._history.messages(self._prompt_chars), {"role": "user", "content": utterance.text}]
            if messages != self._thought:
                self._thought = messages
                self._out.put(signals.Prefill(prompt(self.settings, ResponseParams(), messages)))

    def _commit(self, utterance: Utterance) -> None:
        item = items.UserMessage(type="message", role="user", id=utterance.item_id, object="realtime.item",
                                 status="completed", content=[items.InputAudio(type="input_audio")])  # fmt: skip
        before = self._history.add(Entry(item))
        self._out.put(events.Committed(item_id=utterance.item_id, previous_item_id=before))
        self._out.put(events.ItemAdded(previous_item_id=before, item=item))
        self._out.put(events.ItemDone(previous_item_id=before, item=item))

    def _settled(self, utterance: Utterance, now: int) -> None:
        """Its words are all there: do they interrupt, and do they want an answer?"""
        utterance.settled = now
        listened = self._over_a_reply(utterance, now)
        self._remember(utterance, mute=listened)
        detection = self._listener.detection
        wanted = not utterance.manual and detection is not None and detection.create_response
        if wanted and utterance.text and not listened and isinstance(self.settings, RealtimeSettings):
            self._owed = utterance

    def _over_a_reply(self, utterance: Utterance, now: int) -> bool:
        """Decide what was said over a reply; whether it only said that somebody listens."""
        barge = self.barge
        if barge is None or utterance not in barge.utterances:
            return False
        listened = is_backchannel(utterance.text)
        barge.utterances.remove(utterance)
        if barge.allowed and not listened:
            self.interrupt("turn_detected", now)
        elif not barge.utterances:
            self.relent(now)
        return listened

    def _remember(self, utterance: Utterance, *, mute: bool) -> None:
        try:
            entry = self._history.get(utterance.item_id)
        except Problem:  # the client deleted it meanwhile
            return
        entry.mute = mute
        if isinstance(entry.item, items.UserMessage):
            for part in entry.item.content:
                if isinstance(part, items.InputAudio) and part.transcript is None:
                    part.transcript = utterance.text
                    return

    def _own(self, params: ResponseParams) -> History | None:
        """The items of a response that brings its own. Raises Problem for a reference to nothing, and for sound."""
        if params.input is None:
            return None
        own = History()
        for given in params.input:
            if isinstance(given, items.Reference):
                entry = self._history.get(given.id, "response.input")
                # copies share their parts with the conversation's items, and so get the words that are still to come
                own.add(Entry(entry.item.model_copy(update={"id": self._out.name("item")}), entry.track))
                continue
            if isinstance(given, items.UserMessage) and given.sounds:
                raise Problem("invalid_value", "a response's input cannot be heard; create an item of the audio, and "
                              "give a reference to it", "response.input")  # fmt: skip
            own.add(Entry(given.model_copy(update={"id": self._out.name("item"), "status": "completed"})))
        return own

    def _words_are_there(self, *more: Utterance | None) -> bool:
        return not self._listener.settling and not any(more)

    def _begin(self, asked: Asked, now: int) -> None:
        assert isinstance(self.settings, RealtimeSettings)
        self._asked, self._answers = None, asked.turn
        history = self._history if asked.own is None else asked.own
        messages = [*history.messages(self._prompt_chars), *asked.added]
        self._thought = []
        self._responder.begin(prompt(self.settings, asked.params, messages), now)

    def _watch_silence(self, now: int) -> None:
        """Nobody speaks once the last reply has been heard and nothing is being said."""
        listener, responder = self._listener, self._responder
        busy = responder.audible or listener.open or listener.settling
        if busy or self._owed is not None:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now

    def _nudge(self, now: int) -> None:
        """The silence has lasted: the agent speaks."""
        assert self._quiet_since is not None
        self._nudged = True
        end = self._listener.total * 1000 // signals.HEARING_RATE
        begin = max(0, end - (now - self._quiet_since) // MS)
        item_id = self._out.name("item")
        self._out.put(events.TimeoutTriggered(audio_start_ms=begin, audio_end_ms=end, item_id=item_id))
        self._commit(Utterance(item_id, 0, 0, 0, True))
        self.respond(ResponseParams(), now)
        assert self._asked is not None
        self._asked.added = [{"role": "user", "content": NUDGE}]
        self.settle(now)

    def _measure(self) -> None:
        """Tell a client that wants it how the time went from the user's last sound to the reply's first."""
        response, self._responder.sounded = self._responder.sounded, None
        turn = self._answers
        if response is None or turn is None or turn.decided is None or not self.settings.vivavoce.stats:
            return
        at, silence = response.at, turn.silence * 1000 / signals.HEARING_RATE
        spans = {
            "silence": silence,
            "turn": turn.waited / MS,
            "words": (turn.settled - turn.decided) / MS,
            "thinking": (at["text"] - turn.settled) / MS,
            "voice": (at["sound"] - at["text"]) / MS,
        }
        stages = [events.Stage(name=name, ms=ms) for name, ms in spans.items()]
        self._out.put(events.Stats(response_id=response.id, stages=stages))
