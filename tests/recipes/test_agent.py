"""`vivavoce agent`: the loop with fake devices against a scripted server, and the command with real ones."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scripted import RATE, TRANSCRIPTION, Script, Scripted, Wire, scripted
from torch import Tensor

from vivavoce.recipes import cli, serve
from vivavoce.recipes.agent import Agent, NoServer, connected, converse, session
from vivavoce.recipes.player import Player


@dataclass
class Kept:
    """A screen that remembers."""

    finals: list[str] = field(default_factory=list)
    ended_by: str = ""  # the line after which the microphone stops
    stop: Callable[[], None] = lambda: None
    lives: list[tuple[str, str]] = field(default_factory=list)

    def live(self, stable: str, tail: str) -> None:
        self.lives.append((stable, tail))

    def final(self, text: str) -> None:
        self.finals.append(text)
        if text == self.ended_by:
            self.stop()


class Microphone:
    """Hears what the script says, when it says it."""

    def __init__(self) -> None:
        self._blocks: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        self.stops = 0

    def say(self, pcm: np.ndarray) -> None:
        for block in torch.from_numpy(pcm.astype(np.float32)).split(480):
            self._blocks.put(block)

    def stop(self) -> None:
        self.stops += 1
        self._blocks.put(None)

    def __iter__(self) -> Iterator[Tensor]:
        while (block := self._blocks.get()) is not None:
            yield block


class Speaker:
    """A loudspeaker whose clock the script turns."""

    def __init__(self) -> None:
        self.sound: list[float] = []
        self.played = 0
        self._told = threading.Condition()

    def play(self, pcm: Tensor) -> None:
        with self._told:
            self.sound += pcm.tolist()
            self._told.notify_all()

    def stop(self) -> None:
        with self._told:
            del self.sound[self.played :]
            self._told.notify_all()

    async def until(self, samples: int) -> None:
        """Exactly so many have been given and not thrown away."""

        def wait() -> None:
            with self._told:
                assert self._told.wait_for(lambda: len(self.sound) == samples, 300), len(self.sound)

        await asyncio.to_thread(wait)


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted([]) as serving:
        yield serving


def address(server: Scripted) -> str:
    return server.url.replace("http", "ws")


def run(server: Scripted, script: Script, microphone: Microphone, speaker: Speaker, until: str = "") -> Kept:
    """A conversation until that line is shown, or the server ends it."""
    server.play(script)
    screen = Kept(ended_by=until, stop=microphone.stop)
    try:
        with connected(address(server)) as socket, Player(speaker) as player:
            agent = Agent(socket.send, player, screen, stats=True)
            converse(socket, agent, session(80), microphone, microphone.stop)
    finally:
        server.check()
    return screen


def message(item: str, transcript: str) -> dict[str, Any]:
    return {"id": item, "type": "message", "role": "assistant",
            "content": [{"type": "output_audio", "transcript": transcript}]}  # fmt: skip


def test_a_conversation_with_an_interruption(server: Scripted) -> None:
    microphone, speaker = Microphone(), Speaker()
    question = np.linspace(-0.5, 0.5, RATE // 2)

    async def script(wire: Wire) -> None:
        await wire.begin()
        assert (await wire.event("session.update"))["session"]["type"] == "realtime"
        microphone.say(question)
        await wire.heard(0.5)
        await wire.send("input_audio_buffer.speech_stopped", item_id="i1", audio_end_ms=500)
        await wire.send(f"{TRANSCRIPTION}.delta", item_id="i1", delta="is it", vivavoce={"tail": "open"})
        await wire.send(f"{TRANSCRIPTION}.completed", item_id="i1", transcript="Is it open?")
        await wire.reply("a1", np.full(RATE, 1000, np.int16), "Yes, until six.")
        await speaker.until(RATE)
        speaker.played = 6000
        await wire.send("input_audio_buffer.speech_started", item_id="i2", audio_start_ms=800)
        await speaker.until(6000)
        await wire.send("output_audio_buffer.cleared", response_id="resp_1")
        assert (await wire.event("conversation.item.truncate"))["audio_end_ms"] == 250
        await wire.send("conversation.item.truncated", item_id="a1", audio_end_ms=250)
        await wire.event("conversation.item.retrieve")
        await wire.send("conversation.item.retrieved", item=message("a1", "Yes,"))
        await wire.send(f"{TRANSCRIPTION}.completed", item_id="i2", transcript="Until when?")

    screen = run(server, script, microphone, speaker, "You: Until when?")
    heard = np.frombuffer(server.wires[0].pcm, "<i2")
    assert np.abs(heard - question * 32767).max() <= 0.51
    assert ("You: is it", "open") in screen.lives
    assert screen.finals == ["You: Is it open?", "Agent: Yes, —", "You: Until when?"]


def test_what_is_sent_is_what_the_canceller_leaves() -> None:
    canceller: Any = SimpleNamespace(near=lambda pcm: pcm[:240] / 2)
    sent = list[str | bytes]()
    Agent(sent.append, Player(Speaker()), Kept(), canceller).hear(np.full(480, 0.5, np.float32))
    assert sent == [np.full(240, 8192, "<i2").tobytes()]


def test_a_false_alarm_goes_on_and_the_line_comes_once_all_was_heard(
    server: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    microphone, speaker = Microphone(), Speaker()

    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.send("input_audio_buffer.speech_stopped", item_id="i1", audio_end_ms=0)
        await wire.reply("a1", np.full(RATE, 1000, np.int16), "Yes, until six.")
        await wire.send("vivavoce.stats", response_id="resp_1", stages=[{"name": "silence", "ms": 320.4}])
        await speaker.until(RATE)
        speaker.played = 6000
        await wire.send("input_audio_buffer.speech_started", item_id="i2", audio_start_ms=800)
        await speaker.until(6000)
        await wire.send("vivavoce.output_audio.resumed", item_id="a1")
        await speaker.until(RATE)
        speaker.played = RATE
        microphone.say(np.zeros(480))

    screen = run(server, script, microphone, speaker, "Agent: Yes, until six.")
    assert screen.finals == ["Agent: Yes, until six."]
    assert server.wires[0].all("conversation.item.truncate") == []
    said = capsys.readouterr().err
    assert "silence 320 ms" in said
    assert "first sound" in said


def test_what_the_server_complains_of_is_told(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    async def full(wire: Wire) -> None:
        await wire.send("error", error={"type": "server_full", "message": "the server is full; try again in 5 s"})
        await wire.close(1013)

    with pytest.raises(NoServer, match="ended the conversation"):
        run(server, full, Microphone(), Speaker())
    assert "full; try again in 5 s" in capsys.readouterr().err


def test_a_server_that_goes_away_stops_the_microphone(server: Scripted) -> None:
    microphone = Microphone()

    async def leaves(wire: Wire) -> None:
        await wire.begin()
        await wire.close()

    with pytest.raises(NoServer, match="start again"):
        run(server, leaves, microphone, Speaker())
    assert microphone.stops == 1


def test_where_nobody_serves_the_command_says_so_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["agent", "--url", "ws://127.0.0.1:9", "--measure", "1"]) == 1
    error = capsys.readouterr().err
    assert "ws://127.0.0.1:9/v1/realtime" in error
    assert "vivavoce serve" in error
    assert error.count("\n") == 1


def test_without_an_address_it_starts_a_server_of_its_own(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Namespace] = []

    @contextmanager
    def running(args: Namespace) -> Iterator[str]:
        asked.append(args)
        yield address(server)

    async def full(wire: Wire) -> None:
        await wire.send("error", error={"type": "server_error", "message": "it will not answer"})

    monkeypatch.setattr(serve, "running", running)
    server.play(full)
    assert cli.main(["agent", "--measure", "1", "--llm", "http://localhost:1/v1", "--voice", "v", "--model", "m"]) == 1
    assert "it will not answer" in capsys.readouterr().err
    assert (asked[0].llm, asked[0].voice, asked[0].model) == ("http://localhost:1/v1", "v", "m")


@pytest.mark.parametrize("argv", [["--lookahead", "x"], ["--measure", "0"], ["word"]])
def test_bad_usage_exits_with_2(argv: list[str]) -> None:
    assert cli.main(["agent", *argv]) == 2


def test_real_devices_hear_and_speak_and_ctrl_c_ends_cleanly(pulse: Any, server: Scripted) -> None:
    """The one microphone hears the one loudspeaker. Its echo is for test_echo: a busy machine leaves gaps."""

    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.heard(0.3)
        sound = np.random.default_rng(1).standard_normal(4 * RATE) * 3000
        sound *= np.sin(2 * np.pi * 3 * np.arange(len(sound)) / RATE) > -0.3
        await wire.reply("a1", sound.astype(np.int16), "Yes, until six.")
        await wire.heard(3.5)
        await wire.send(f"{TRANSCRIPTION}.completed", item_id="i1", transcript="Thank you.")
        await wire.heard(4)
        process.send_signal(signal.SIGINT)

    server.play(script)
    command = [sys.executable, "-P", "-m", "vivavoce.recipes.cli", "agent", "--url", address(server),
               "--input-device", "cable", "--output-device", "cable"]  # fmt: skip
    process = subprocess.Popen(
        command, env=pulse.env | {"OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, error = process.communicate(timeout=300)
    finally:
        process.kill()
    server.check()
    assert process.returncode == 0, error
    assert "You: Thank you." in out
