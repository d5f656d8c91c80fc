"""Captions from a server: `vivavoce listen --url`.

Blocks of a microphone go up a WebSocket as they come; the server's transcription events come down and go to the same
screen as when the recogniser runs here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from vivavoce.recipes import agent
from vivavoce.recipes.listen import Screen
from vivavoce.server.encode import pcm16
from vivavoce.streaming.errors import VivaVoceError

EMPTY = "input_audio_buffer_commit_empty"  # nobody was speaking when the audio ended
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
FAILED = "conversation.item.input_audio_transcription.failed"


class Refused(VivaVoceError, OSError):
    """The server said no, or broke off."""


@dataclass
class Captions:
    """What the server's events come to on a screen. open: utterances whose words are still to come; asked: the audio
    has ended, and its last utterance was asked for; ending: the server has answered that."""

    screen: Screen
    open: set[str] = field(default_factory=set)
    words: str = ""
    asked: bool = False
    ending: bool = False

    def take(self, event: dict[str, Any]) -> bool:
        """False when nothing more is to come. Raises Refused."""
        kind, item = event["type"], event.get("item_id", "")
        if kind == DELTA:
            self.words += event["delta"] or ""
            self.screen.live(self.words.strip(), (event.get("vivavoce") or {}).get("tail", ""))
        elif kind == "input_audio_buffer.committed":
            self.open.add(item)
            self.ending = self.asked
        elif kind in (COMPLETED, FAILED):
            self.open.discard(item)
            self.words = ""
            if text := event.get("transcript", "").strip():
                self.screen.final(text)
        elif kind == "error" and self.asked and event["error"]["code"] == EMPTY:
            self.ending = True
        elif kind == "error":
            raise Refused(f"the server says: {event['error']['message']}")
        return not self.ending or bool(self.open)


@contextmanager
def connected(url: str, key: str | None = None) -> Iterator[ClientConnection]:
    """A socket for a session that only listens. Raises NoServer, and Refused where the server broke off."""
    path = url if urlsplit(url).path.strip("/") else url.rstrip("/") + agent.PATH
    try:
        with agent.connected(f"{path}{'&' if '?' in path else '?'}intent=transcription", key) as socket:
            yield socket
    except ConnectionClosed as e:  # also on leaving, after the server has said why
        if isinstance(e.__context__, VivaVoceError):
            raise e.__context__ from None
        raise Refused(f"the server broke off ({e}); see what it says, and start again") from e


def follow(socket: ClientConnection, blocks: Iterable[Tensor], screen: Screen, lookahead_ms: int) -> None:
    """Send blocks (n,) at 16 kHz until they end, and show what was said as it is said, the last word included.

    Raises Refused, ConnectionClosed, and what the blocks raise, after the last words.
    """
    captions, fault = Captions(screen), list[BaseException]()

    def send() -> None:
        try:
            for block in blocks:
                socket.send(pcm16(block.numpy()))
        except ConnectionClosed:
            return
        except BaseException as e:  # of the device; told when the words it still gave are shown
            fault.append(e)
        captions.asked = True
        with suppress(ConnectionClosed):
            socket.send(json.dumps({"type": "input_audio_buffer.commit"}))

    heard = {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}
    session = {"type": "transcription", "audio": heard, "vivavoce": {"lookahead_ms": lookahead_ms}}
    with suppress(ConnectionClosed):  # then what the server said before it closed is read below
        socket.send(json.dumps({"type": "session.update", "session": session}))
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    while captions.take(json.loads(socket.recv())):
        pass
    if fault:
        raise fault[0]
