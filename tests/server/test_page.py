"""The page's sound in a real browser: what goes up, what is played, and a reply that is talked over."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from browser import Browser, Tab, browser
from hum import Hum
from page import LISTENING, NOTICED, UNTOUCHED, talk
from scripted import RATE, Scripted, Wire
from serving import Script, running

from vivavoce.recipes import sample
from vivavoce.recipes.data import voices
from vivavoce.recipes.options import MODEL
from vivavoce.server import app
from vivavoce.server.house import House
from vivavoce.server.replies import EndpointReplies
from vivavoce.speech import checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import score
from vivavoce.speech.checkpoint import Loaded
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.vad import Vad

# --- the sound --------------------------------------------------------------------------------------------------------

CAPTURE = """(async () => {
    const rate = %d, context = new OfflineAudioContext(1, rate, rate);
    await context.audioWorklet.addModule("page/worklets.js");
    const source = new OscillatorNode(context, {frequency: %f});
    const node = new AudioWorkletNode(context, "capture", {numberOfOutputs: 0});
    const blocks = [];
    const last = new Promise((done) => node.port.onmessage = ({data}) => {
        blocks.push(...data.pcm);
        if (data.last) done(); });
    source.connect(node);
    source.start();
    await context.startRendering();
    node.port.postMessage(null);
    await last;
    return blocks; })()"""


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_microphone_is_brought_to_24_khz_whatever_its_rate(idle: Tab, rate: int) -> None:
    heard = np.array(idle.run(CAPTURE % (rate, 1000.0))) / 32767
    assert abs(len(heard) - RATE) < 200
    inner = slice(200, len(heard) - 200)
    error = heard - np.sin(2 * np.pi * 1000 * np.arange(len(heard)) / RATE)
    assert np.sqrt((error[inner] ** 2).mean()) < 1e-3


def test_what_24_khz_cannot_hold_is_silent_and_does_not_fold(idle: Tab) -> None:
    heard = np.array(idle.run(CAPTURE % (48000, 14000.0))) / 32767
    assert np.abs(heard[200:]).max() < 1e-3


PLAY = """(async () => {
    const context = new OfflineAudioContext(1, 24000, 24000), reports = [];
    await context.audioWorklet.addModule("page/worklets.js");
    const node = new AudioWorkletNode(context, "player", {numberOfInputs: 0, outputChannelCount: [1]});
    node.connect(context.destination);
    node.port.onmessage = ({data}) => reports.push(data);
    const told = (what) => new Promise((done) => {
        const look = () => reports.some((r) => r.what === what) ? done() : setTimeout(look, 1);
        look(); });
    const read = async (mark) => { // by the audio thread, all that was sent it so far
        node.port.postMessage({act: "report", mark});
        while (!reports.some((r) => r.what.mark === mark)) await new Promise((done) => setTimeout(done, 1)); };
    const at = (seconds, messages) => context.suspend(seconds).then(async () => {
        for (const message of messages) node.port.postMessage(message);
        await read(seconds);
        context.resume(); });
    const ramp = (from, to) => Int16Array.from({length: to - from}, (_, i) => 1000 + from + i);
    %s
    const rendered = await context.startRendering();
    await read("the end");
    const sound = [...rendered.getChannelData(0)].map((x) => Math.round(x * 32768));
    return {sound, reports: reports.filter((r) => !r.what.mark)}; })()"""


def test_uneven_pieces_play_without_a_gap_and_are_counted(idle: Tab) -> None:
    done = idle.run(
        PLAY
        % """
        at(0.05, [{act: "push", item: "a", pcm: ramp(0, 1500)}, {act: "push", item: "a", pcm: ramp(1500, 1501)}]);
        at(0.09, [{act: "push", item: "a", pcm: ramp(1501, 4000)}]);
        at(0.15, [{act: "push", item: "a", pcm: ramp(4000, 6000)}, {act: "end", item: "a"}]);"""
    )
    sound = np.array(done["sound"])
    start = int(np.flatnonzero(sound)[0])
    assert (sound[start + 120 : start + 5998] == 1000 + np.arange(120, 5998)).all()
    assert not sound[start + 6000 :].any()
    (finished,) = [report for report in done["reports"] if report["what"] == "finished"]
    assert (finished["item"], finished["played"], finished["underruns"]) == ("a", 6000, 0)


def test_a_pause_is_silent_within_5_ms_and_a_resumed_reply_misses_no_sample(idle: Tab) -> None:
    done = idle.run(
        PLAY
        % """
        at(0.05, [{act: "push", item: "a", pcm: ramp(0, 12000)}, {act: "end", item: "a"}]);
        at(0.2, [{act: "pause"}]);
        at(0.4, [{act: "resume"}]);"""
    )
    sound = np.array(done["sound"])
    assert not sound[4800 + 256 + 120 : 9600].any()
    paused = next(report for report in done["reports"] if report["what"] == "paused")
    after = sound[9600 + 512 :]
    assert after[after > 0][0] == 1000 + paused["played"] + (9600 + 512 - np.flatnonzero(sound[9600:])[0] - 9600)
    assert next(r for r in done["reports"] if r["what"] == "finished")["played"] == 12000


def test_a_cleared_reply_says_how_much_was_played_and_the_next_starts_afresh(idle: Tab) -> None:
    done = idle.run(
        PLAY
        % """
        at(0.05, [{act: "push", item: "a", pcm: ramp(0, 12000)}]);
        at(0.2, [{act: "clear"}]);
        at(0.3, [{act: "push", item: "b", pcm: ramp(0, 2400)}, {act: "end", item: "b"}]);"""
    )
    sound, reports = np.array(done["sound"]), {report["what"]: report for report in done["reports"]}
    assert reports["cleared"]["item"] == "a"
    assert np.count_nonzero(sound[:7000]) in range(reports["cleared"]["played"] - 3, reports["cleared"]["played"] + 1)
    assert (reports["finished"]["item"], reports["finished"]["played"]) == ("b", 2400)


def test_a_line_that_is_too_slow_is_waited_for_longer_each_time(idle: Tab) -> None:
    done = idle.run(
        PLAY
        % """
        at(0.05, [{act: "push", item: "a", pcm: ramp(0, 1500)}]);
        at(0.2, [{act: "push", item: "a", pcm: ramp(1500, 3100)}]);
        at(0.3, [{act: "push", item: "a", pcm: ramp(3100, 4000)}, {act: "end", item: "a"}]);"""
    )
    last = [report for report in done["reports"] if report["what"] == "finished"][-1]
    assert (last["played"], last["underruns"]) == (4000, 1)
    sound = np.array(done["sound"])
    assert not sound[4700:7200].any()  # 1600 samples would have done before
    assert np.sort(np.abs(np.diff(sound)))[-2] < 100  # no click but where the ramp itself ends


# --- talking ----------------------------------------------------------------------------------------------------------


def tone(seconds: float) -> np.ndarray:
    return (4000 * np.sin(2 * np.pi * 220 * np.arange(int(RATE * seconds)) / RATE)).astype("<i2")


def talked_over(seconds: int, *decision: tuple[str, dict[str, Any]]) -> tuple[Any, threading.Event]:
    """A script: a reply that takes so long that no machine misses it is talked over; then the server decides. Set when
    the page has said `test.over`."""

    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.event("session.update")
        await wire.reply("a1", tone(seconds), "A long answer")
        await wire.event("test.playing")
        at = await wire.heard(0.2)
        await wire.send("input_audio_buffer.speech_started", item_id="i2", audio_start_ms=int(at - 130) - 300)
        await wire.event("test.paused")
        for kind, fields in decision:
            await wire.send(kind, **fields)
        await wire.event("test.over")  # and so everything before it
        over.set()

    over = threading.Event()
    return script, over


PLAYING = "vivavoce.running.talk?.timed.has('a1')"
PAUSED = "vivavoce.running.talk.interruptions[0]?.noticed !== undefined"


OVER = "vivavoce.running.connection.send({type: 'test.over'})"


def interruption(tab: Tab) -> Any:
    talk(tab)
    for condition, event in [(PLAYING, "test.playing"), (PAUSED, "test.paused")]:
        tab.until(condition)
        tab.run(f"vivavoce.running.connection.send({{type: '{event}'}})")
    tab.until("vivavoce.running.talk.interruptions[0].outcome !== 'undecided'")
    return tab.run("vivavoce.running.talk.interruptions[0]")


def test_talked_over_it_falls_silent_at_once_and_drops_the_reply_when_the_server_says_so(
    tab: Tab, server: Scripted
) -> None:
    script, over = talked_over(20, ("output_audio_buffer.cleared", {"response_id": "resp_1"}))
    server.play(script)
    seen = interruption(tab)
    assert seen["outcome"] == "cancelled"
    tab.until("vivavoce.running.talk.last?.what === 'cleared'")
    last = tab.run("vivavoce.running.talk.last")
    tab.run(OVER)
    assert over.wait(300)
    truncate = server.wires[0].all("conversation.item.truncate")[0]
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("a1", last["played"] // 24)
    assert 0 < truncate["audio_end_ms"] < 20_000
    assert not tab.run("vivavoce.running.talk.speaking")


def test_a_false_alarm_pauses_and_the_reply_plays_on_to_its_last_sample(tab: Tab, server: Scripted) -> None:
    resumed = ("vivavoce.output_audio.resumed", {"response_id": "resp_1", "item_id": "a1", "reason": "backchannel"})
    script, over = talked_over(8, resumed)
    server.play(script)
    seen = interruption(tab)
    assert seen["outcome"] == "resumed"
    tab.until("!vivavoce.running.talk.speaking")
    tab.run(OVER)
    assert over.wait(300)
    told = [event["audio_end_ms"] for event in server.wires[0].all("vivavoce.output_audio.played")]
    assert told == sorted(told)
    assert len(told) >= 3
    assert tab.run("vivavoce.running.talk.last.played") == 8 * RATE
    assert server.wires[0].all("conversation.item.truncate") == []


def test_the_user_can_stop_an_answer_with_a_key(tab: Tab, server: Scripted) -> None:
    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.event("session.update")
        await wire.reply("a1", tone(20), "A very long answer")

    server.play(script)
    talk(tab)
    tab.until(PLAYING)
    assert tab.run("document.querySelector('#interrupt').hidden") is False
    tab.press("Escape")
    tab.until("vivavoce.running.talk.last?.what === 'cleared'")
    assert tab.run("document.querySelector('#interrupt').hidden")


# --- with a real server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Loaded:
    if MODEL not in [info.name for info in checkpoint.models()]:
        pytest.skip(f"{MODEL} is not in this checkout")
    return checkpoint.load(MODEL)


def hearing(loaded: Loaded) -> Callable[[int], Recognizer]:
    return lambda slots: Recognizer(loaded.model, loaded.tokenizer, slots=slots, lm=loaded.lm)


@pytest.fixture(scope="module")
def listener(shipped: Loaded) -> Iterator[str]:
    """The server, as it hears with the shipped model."""
    with running(app.build(House.build(MODEL, hearing(shipped), Vad.load(), places=2))) as address:
        yield f"http://{address}/"


@pytest.fixture
def talker(loaded: Loaded) -> Iterator[str]:
    """The server with a recogniser that babbles whenever somebody speaks, a voice that hums, and much to say."""
    script = Script([[("so " * 3000).strip()]] * 9)
    with running(script.app()) as model:
        replies = EndpointReplies(f"http://{model}/v1")
        house = House.build("tiny", hearing(loaded), Vad.load(), places=2, synthesizer=Hum(), speaker="hum",
                            replies=replies)  # fmt: skip
        with running(app.build(house)) as address:
            yield f"http://{address}/"


def spoken() -> tuple[np.ndarray, int]:
    try:
        return voices.say(sample.SENTENCE, sample.VOICE), voices.RATE
    except MissingDependency as e:
        pytest.skip(str(e))


def recorded() -> tuple[np.ndarray, int]:
    if (folder := os.environ.get("VIVAVOCE_DATA")) is None:
        pytest.skip("VIVAVOCE_DATA names no folder of recordings")
    return soundfile.read(Path(folder) / "speech" / "ljspeech" / "LJ001-0004.opus", dtype="float32")


def wav(rate: int, *pieces: np.ndarray | float) -> bytes:
    """Sounds and, in seconds, silences."""
    whole = np.concatenate([np.zeros(int(p * rate)) if isinstance(p, float) else p for p in pieces])
    out = io.BytesIO()
    soundfile.write(out, soxr.resample(whole, rate, 48000), 48000, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.mark.parametrize("source", [spoken, recorded])
def test_real_speech_is_captioned(
    listener: str, shipped: Loaded, tmp_path: Path, source: Callable[[], tuple[np.ndarray, int]]
) -> None:
    pcm, rate = source()
    (tmp_path / "speech.wav").write_bytes(wav(rate, 0.5, pcm, 2.0))
    with browser(tmp_path / "profile", tmp_path / "speech.wav") as chrome, chrome.open(listener) as tab:
        tab.size(1280, 800)
        tab.run(UNTOUCHED)
        tab.click("#go")
        tab.until("document.querySelector('#growing .words, #growing .tail')?.parentNode.innerText")  # while it is said
        tab.until("document.querySelector('#said .words')?.innerText")
        assert tab.text("#delay-total").endswith("s")
        tab.click("#go")
        tab.until("document.querySelector('#status').textContent === 'Stopped'")
        shown = tab.run("vivavoce.transcript.toText()")
        assert tab.errors == []
    at_16k = torch.from_numpy(soxr.resample(pcm, rate, 16000).astype(np.float32))
    alone = hearing(shipped)(1).transcribe(at_16k, lookahead=6).text
    assert score(alone, shown).words.rate < 0.7, (alone, shown)  # utterances begin elsewhere than the file


# A microphone that hears the WAV file of `say()` whenever that is called.
SAYING = """(async (wav) => {
    const context = new AudioContext(), out = context.createMediaStreamDestination();
    const sound = await context.decodeAudioData(Uint8Array.from(atob(wav), (c) => c.charCodeAt(0)).buffer);
    navigator.mediaDevices.getUserMedia = async () => out.stream;
    globalThis.say = () => {
        const source = new AudioBufferSourceNode(context, {buffer: sound});
        source.connect(out);
        source.start(); }; })"""


@pytest.mark.timeout(1800)
@pytest.mark.slow  # the whole of it in real time, which a busy machine stretches
def test_a_real_conversation_falls_silent_and_gives_way_to_words(talker: str, chrome: Browser) -> None:
    pcm, rate = spoken()
    with chrome.open(talker) as tab:
        tab.run(f"{SAYING}('{base64.b64encode(wav(rate, pcm)).decode()}')")
        talk(tab)
        tab.until(LISTENING)
        tab.run("say()")
        tab.until("vivavoce.running?.talk?.timed.size")
        tab.run("say()")
        tab.until("vivavoce.running.talk.interruptions.some((i) => i.outcome === 'cancelled')")
        tab.until("document.querySelector('#said li[data-who=agent][data-state=interrupted]')")
        seen = tab.run("vivavoce.running.talk.interruptions")
        heard = tab.text("#said li[data-who=agent] .words")
        assert tab.errors == []
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # a machine that has no time for the browser says nothing about it
        assert all(interruption["noticed"] < NOTICED for interruption in seen), seen
    assert 1 <= len(heard.split()) < 3000
