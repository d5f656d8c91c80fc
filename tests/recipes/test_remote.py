"""Captions that a server makes: the words of one pass, the last included, and faults as one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from serving import running
from torch import Tensor

from vivavoce.recipes import cli, sample
from vivavoce.recipes.data.voices import say
from vivavoce.recipes.listen import screen
from vivavoce.recipes.remote import COMPLETED, Captions, Refused, connected, follow
from vivavoce.server import app
from vivavoce.server.guard import Limits
from vivavoce.server.house import House
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.checkpoint import Loaded
from vivavoce.speech.errors import MissingDevice
from vivavoce.speech.vad import Vad

pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")


@dataclass
class Kept:
    """A screen that remembers, and tells who waits for it."""

    finals: list[str] = field(default_factory=list)
    lives: list[tuple[str, str]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def live(self, stable: str, tail: str) -> None:
        with self.news:
            self.lives.append((stable, tail))
            self.news.notify_all()

    def final(self, text: str) -> None:
        with self.news:
            self.finals.append(text)
            self.lives.clear()
            self.news.notify_all()

    def until(self, finals: int) -> None:
        """So many utterances were shown, and some of the next."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.finals) == finals and bool(self.lives), 300)


@pytest.fixture(scope="module")
def at(loaded: Loaded) -> Iterator[str]:
    def make(slots: int) -> Recognizer:
        return Recognizer(loaded.model, loaded.tokenizer, slots=slots)

    house = House.build("tiny", make, Vad.load(), places=1)
    house.hearing.slack = float("inf")
    application = app.build(house, Limits(api_keys=("secret",)))
    application.state.realtime.resume = 0.0
    with running(application) as address:
        yield f"ws://{address}"


def sentences(screen: Kept) -> Iterator[Tensor]:
    """Speech, a pause that ends the utterance, and speech that the end of the stream cuts; as a microphone would, no
    further ahead than what is shown."""
    pcm = say(sample.SENTENCE, sample.VOICE).astype(np.float32)
    yield from torch.from_numpy(np.pad(pcm, (8000, 24000))).split(1600)
    yield from torch.from_numpy(pcm[:40000]).split(1600)
    screen.until(1)


def test_what_is_said_is_shown_the_last_word_included(at: str) -> None:
    screen = Kept()
    with connected(at, "secret") as socket:
        follow(socket, sentences(screen), screen, 480)
    assert len(screen.finals) == 2
    assert all(len(text.split()) > 2 for text in screen.finals)


def test_words_come_before_a_lost_device_is_told(at: str) -> None:
    screen = Kept()

    def unplugged() -> Iterator[Tensor]:
        yield from sentences(screen)
        raise MissingDevice("the microphone went away; plug it in again")

    with connected(at, "secret") as socket, pytest.raises(MissingDevice, match="went away"):
        follow(socket, unplugged(), screen, 480)
    assert len(screen.finals) == 2


def test_a_server_that_refuses_is_quoted(at: str) -> None:
    with connected(at, "secret") as first:
        assert json.loads(first.recv(timeout=300))["type"] == "session.created"
        with pytest.raises(Refused, match="all 1 places"), connected(at, "secret") as second:
            follow(second, iter(()), Kept(), 480)


def test_no_server_or_no_key_is_one_line(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "--url", "ws://127.0.0.1:1"]) == 1
    assert cli.main(["listen", "--url", at]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("vivavoce: no conversation at ws://") for line in lines] == [True, True]


def event(kind: str, item: str = "a", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "item_id": item, **fields}


def test_it_ends_when_every_utterance_has_its_words() -> None:
    screen = Kept()
    captions = Captions(screen)
    transcription = "conversation.item.input_audio_transcription"
    assert captions.take(event("input_audio_buffer.committed"))
    assert captions.take(event(f"{transcription}.delta", delta="so ", vivavoce={"tail": "we"}))
    assert screen.lives == [("so", "we")]
    captions.asked = True
    assert captions.take(event("error", error={"code": "input_audio_buffer_commit_empty", "message": "no speech"}))
    assert not captions.take(event(f"{transcription}.completed", transcript="so we go"))
    assert screen.finals == ["so we go"]
    assert not Captions(screen, ending=True).take(event(f"{transcription}.failed"))
    with pytest.raises(Refused, match="wrong"):
        captions.take(event("error", error={"code": "x", "message": "wrong"}))


def test_finished_lines_are_punctuated_here(capsys: pytest.CaptureFixture[str]) -> None:
    with screen(punctuate=True) as where:
        captions = Captions(where)
        captions.take({"type": "input_audio_buffer.committed", "item_id": "a"})
        captions.take({"type": COMPLETED, "item_id": "a", "transcript": "what time is it"})
    assert capsys.readouterr().out == "What time is it?\n"


def test_what_the_server_decides_cannot_be_asked_for_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "--url", "ws://127.0.0.1:1", "--hotwords", "Okonkwo", "--no-gate"]) == 2
    assert "--gate, --hotwords: not with --url, the server decides" in capsys.readouterr().err
