"""What goes into a conversation and what comes out of it, besides the protocol's own events.

A realtime session is one `Conversation`. Its shell (the socket and the rooms) hands it, one at a time and with the time
in nanoseconds, client events and the inputs below; for each it gets a list of outputs, in order: server events to send,
and the actions below to carry out. Nothing here blocks, and nothing here knows a socket, a thread or a tensor.

    outputs = conversation.begin(now)                            # session.created and the first actions
    outputs = conversation.step(protocol.receive(frame), now)    # a text or binary frame from the client
    outputs = conversation.step(Heard(3, 12800, words, "tail"), now)
    outputs = conversation.tick(now)                             # at conversation.wake_at at the latest, or every 20 ms
    outputs = conversation.end(now)                              # the client is gone for good: let go of everything
    text = protocol.send(event)                                  # for outputs that are `events.ServerEvent`s

Streams, watches, replies and speeches carry numbers that the conversation hands out and never uses twice in a session;
what comes late for one that is over is ignored, so the shell need not care. PCM is (n,) float32 in [-1, 1].

Hearing works by the utterance: a stream is opened when one begins (with what was said just before), finished when it
ends, and its last words follow at once. A session therefore keeps its place in the room between streams; before the new
stream's first `Heard` the last one's may still come. What `StartHearing` hands over at once was said before: it comes
as a burst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vivavoce.speech.asr.words import Word
from vivavoce.speech.turn import TurnConfig, TurnEvent

Pcm = NDArray[np.float32]

HEARING_RATE = 16_000  # of what is heard and watched
SPEAKING_RATE = 24_000  # of what is spoken


# What comes in


@dataclass(frozen=True)
class Heard:
    """The recogniser on a stream: words that are final, a tail that may change, the samples of the stream it rests on.
    last: the stream was finished and nothing follows. lag: seconds this came late."""

    stream: int
    at_sample: int
    words: tuple[Word, ...] = ()
    tail: str = ""
    last: bool = False
    lag: float = 0.0


@dataclass(frozen=True)
class Deaf:
    """The recogniser failed on a stream, or had no place for it; the stream is over."""

    stream: int
    message: str


@dataclass(frozen=True)
class Voiced:
    """Voice activity of a watch, up to at_sample since it began. certain: what is being said goes on to this sample at
    least."""

    watch: int
    at_sample: int
    events: tuple[TurnEvent, ...] = ()
    certain: int = 0


@dataclass(frozen=True)
class Unwatched:
    """Voice activity failed; the watch is over."""

    watch: int
    message: str


@dataclass(frozen=True)
class Said:
    """Some more text of a reply."""

    reply: int
    text: str


@dataclass(frozen=True)
class Called:
    """Some more of a tool call that a reply makes. index: which of its calls; name and call_id come with its first
    piece; arguments: a piece of JSON text."""

    reply: int
    index: int
    arguments: str = ""
    name: str = ""
    call_id: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens, where the model counts them."""

    prompt: int = 0
    reply: int = 0


@dataclass(frozen=True)
class Replied:
    """A reply is complete; length: cut at max_tokens."""

    reply: int
    reason: Literal["end", "length"] = "end"
    usage: Usage = Usage()


@dataclass(frozen=True)
class NoReply:
    """A reply failed: no answer, too late, or broken off. message: for the client's developer, not for the ear."""

    reply: int
    message: str
    code: str = "reply_failed"


@dataclass(frozen=True)
class SpokenWord:
    """A word as it stands in the text, and where in the speech's sound it is: samples at 24 kHz."""

    word: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Spoken:
    """More sound of a speech at 24 kHz, and the words that begin in it. last: nothing follows."""

    speech: int
    pcm: Pcm
    words: tuple[SpokenWord, ...] = ()
    last: bool = False


@dataclass(frozen=True)
class Hoarse:
    """The voice failed on a speech, or had no place for it; the speech is over."""

    speech: int
    message: str


Input = Heard | Deaf | Voiced | Unwatched | Said | Called | Replied | NoReply | Spoken | Hoarse


# What goes out


@dataclass(frozen=True)
class StartHearing:
    """Open a stream of the recogniser; lookahead in encoder frames of 80 ms. Audio follows as `Hear`."""

    stream: int
    lookahead: int


@dataclass(frozen=True)
class SetLookahead:
    stream: int
    lookahead: int


@dataclass(frozen=True)
class Hear:
    """16 kHz."""

    stream: int
    pcm: Pcm


@dataclass(frozen=True)
class FinishHearing:
    """No more audio: the last words are wanted now, and then a `Heard` that is `last`."""

    stream: int


@dataclass(frozen=True)
class CloseHearing:
    """Nothing more is wanted of it."""

    stream: int


@dataclass(frozen=True)
class StartWatching:
    """Look for speech in the audio that follows as `Watch`; its sample 0 is the first of those."""

    watch: int
    config: TurnConfig


@dataclass(frozen=True)
class ConfigureWatching:
    watch: int
    config: TurnConfig


@dataclass(frozen=True)
class Watch:
    """16 kHz. Sent before the `Hear` of the same audio."""

    watch: int
    pcm: Pcm


@dataclass(frozen=True)
class TextChanged:
    """The recogniser's text changed when it had heard so many samples of the watch's clock: see `Watching.changed`."""

    watch: int
    at_sample: int


@dataclass(frozen=True)
class StopWatching:
    watch: int


@dataclass(frozen=True)
class Prompt:
    """What a reply rests on. messages: roles and contents as chat completions have them (system, user, assistant with
    `tool_calls`, tool with `tool_call_id`); tools, tool_choice: likewise; max_tokens: None for as many as it likes."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Prefill:
    """Think while listening: the prompt as far as it is known, the last message being the user's so far. A later one
    replaces it, and takes back what is no longer in it."""

    prompt: Prompt


@dataclass(frozen=True)
class StartReply:
    """`Said`, `Called`, then `Replied` or `NoReply` are to come. At most one reply of a session runs."""

    reply: int
    prompt: Prompt


@dataclass(frozen=True)
class CancelReply:
    reply: int


@dataclass(frozen=True)
class StartSpeaking:
    """Open a speech; rate: 1 is the voice's own speed."""

    speech: int
    voice: str
    rate: float


@dataclass(frozen=True)
class Say:
    """Any piece of text, as it comes."""

    speech: int
    text: str


@dataclass(frozen=True)
class FinishSpeaking:
    """No more text: the rest, and then a `Spoken` that is `last`."""

    speech: int


@dataclass(frozen=True)
class Took:
    """The listener has so many more samples of it behind them: see `Speaking.took`."""

    speech: int
    samples: int


@dataclass(frozen=True)
class StopSpeaking:
    """Fall silent; nothing more is wanted of it."""

    speech: int


@dataclass(frozen=True)
class Close:
    """End the connection: what was sent before says why."""

    reason: str


Action = (
    StartHearing | SetLookahead | Hear | FinishHearing | CloseHearing
    | StartWatching | ConfigureWatching | Watch | TextChanged | StopWatching
    | Prefill | StartReply | CancelReply
    | StartSpeaking | Say | FinishSpeaking | Took | StopSpeaking
    | Close
)  # fmt: skip
