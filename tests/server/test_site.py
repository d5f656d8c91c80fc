"""The page: its files as they are served, and what it does in a real browser, against a server that tests script."""

from __future__ import annotations

import base64
import io
import json
import os
import re
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
from scripted import RATE, TRANSCRIPTION, Scripted, Wire, scripted
from serving import Script, running
from starlette.applications import Starlette
from starlette.testclient import TestClient

from vivavoce.recipes import sample
from vivavoce.recipes.data import voices
from vivavoce.recipes.options import MODEL
from vivavoce.server import app, site
from vivavoce.server.house import House
from vivavoce.server.replies import EndpointReplies
from vivavoce.speech import checkpoint
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.asr.score import score
from vivavoce.speech.checkpoint import Loaded
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.vad import Vad

LISTENING = "vivavoce.running?.connection?.ready"
NOTICED = 250  # ms that falling silent may take
# The microphone as it is, whatever the page asks of the browser; `asked` keeps what that was.
UNTOUCHED = """const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = ({audio}) => (globalThis.asked = audio,
        real({audio: {...audio, echoCancellation: false, noiseSuppression: false, autoGainControl: false}}))"""


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of nothing, then a chirp through the band of speech, as a WAV file."""
    t = np.arange(48000 * 3) / 48000
    sound = 0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    path = tmp_path_factory.mktemp("voice") / "chirp.wav"
    soundfile.write(path, np.concatenate([np.zeros(48000), sound, np.zeros(48000 * 2)]), 48000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory, voice: Path) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile"), voice) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted(site.routes()) as serving:
        yield serving


@pytest.fixture
def tab(chrome: Browser, server: Scripted) -> Iterator[Tab]:
    server.play(begun)
    with chrome.open(server.url) as tab:
        yield tab
    server.check()
    assert tab.errors == []


@pytest.fixture(scope="module")
def idle(chrome: Browser, server: Scripted) -> Iterator[Tab]:
    """One tab for the tests that start nothing."""
    with chrome.open(server.url) as tab:
        yield tab
    assert tab.errors == []


async def begun(wire: Wire) -> None:
    await wire.begin()


def talk(tab: Tab) -> None:
    tab.click("input[value=talk]")
    tab.click("#go")


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=site.routes()))


def test_every_file_the_page_names_is_served_with_its_type(client: TestClient) -> None:
    waiting, named = ["/"], set[str]()
    while waiting:
        text = client.get(waiting.pop()).text
        found = {Path(name).name for name in re.findall(r'"([\w./]+\.(?:js|css|svg))"', text)}
        waiting += [f"/page/{name}" for name in found - named]
        named |= found
    assert named == {path.name for path in site.FOLDER.iterdir() if path.name != "index.html"}
    for name in named:
        answer = client.get(f"/page/{name}")
        assert answer.headers["content-type"].split(";")[0] == site.TYPES[Path(name).suffix]


def test_nothing_is_fetched_from_elsewhere(client: TestClient) -> None:
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]
    for path in site.FOLDER.iterdir():
        assert set(re.findall(r"https?://[\w.]+", path.read_text())) <= {"http://www.w3.org"}, path


def test_what_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/app.js", headers={"if-none-match": etag}).status_code == 200


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
    const at = (seconds, messages) => context.suspend(seconds).then(async () => {
        for (const message of messages) node.port.postMessage(message);
        await new Promise((done) => setTimeout(done, 50)); // the audio thread reads its messages between two blocks
        context.resume(); });
    const ramp = (from, to) => Int16Array.from({length: to - from}, (_, i) => 1000 + from + i);
    %s
    const rendered = await context.startRendering();
    await new Promise((done) => setTimeout(done, 50));
    return {sound: [...rendered.getChannelData(0)].map((x) => Math.round(x * 32768)), reports}; })()"""


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


# --- captions ---------------------------------------------------------------------------------------------------------


def test_partials_are_dim_finals_are_solid_and_in_order(tab: Tab, server: Scripted) -> None:
    async def script(wire: Wire) -> None:
        await wire.begin()
        assert (await wire.event("session.update"))["session"]["type"] == "transcription"
        await wire.send("input_audio_buffer.speech_started", item_id="i1", audio_start_ms=500)
        await wire.send(f"{TRANSCRIPTION}.delta", item_id="i1", delta="so we", vivavoce={"tail": "go", "end_ms": 900})

    server.play(script)
    tab.click("#go")
    tab.until("document.querySelector('#growing .tail')?.textContent === ' go'")
    assert tab.text("#growing .words") == "so we"
    colours = tab.run("['.words', '.tail'].map((x) => getComputedStyle(document.querySelector('#growing ' + x)).color)")
    assert colours[0] != colours[1]
    assert tab.run("document.querySelector('#said').ariaLive") == "polite"
    assert tab.run("document.querySelector('#growing').ariaLive") == "off"
    server.check()


def events(*lines: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([{"type": kind, **fields} for kind, fields in lines])


CONVERSATION = events(
    ("input_audio_buffer.speech_started", {"item_id": "i1", "audio_start_ms": 500}),
    (f"{TRANSCRIPTION}.delta", {"item_id": "i1", "delta": "is it"}),
    (f"{TRANSCRIPTION}.delta", {"item_id": "i1", "delta": " open", "vivavoce": {"tail": "now", "end_ms": 1400}}),
    ("input_audio_buffer.speech_stopped", {"item_id": "i1", "audio_end_ms": 1500}),
    (f"{TRANSCRIPTION}.completed", {"item_id": "i1", "transcript": "Is it open now?"}),
    ("response.output_audio_transcript.delta", {"item_id": "a1", "delta": "Yes, until"}),
    ("input_audio_buffer.speech_started", {"item_id": "i2", "audio_start_ms": 3700}),
    ("conversation.item.truncated", {"item_id": "a1"}),
    ("response.output_audio_transcript.delta", {"item_id": "a1", "delta": " six, and"}),
    ("conversation.item.retrieved",
     {"item": {"id": "a1", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Yes,"}]}}),
    (f"{TRANSCRIPTION}.failed", {"item_id": "i2"}),
)  # fmt: skip


def test_the_transcript_keeps_what_was_said_and_heard_and_saves_as_text_subtitles_and_json(idle: Tab) -> None:
    idle.run(f"for (const event of {CONVERSATION}) vivavoce.receive({{}}, event)")
    assert idle.run("vivavoce.transcript.toText()") == "You: Is it open now?\nAgent: Yes,\n"
    first = idle.run("vivavoce.transcript.toSrt()").split("\n\n")[0]
    assert first == "1\n00:00:00,500 --> 00:00:01,500\nIs it open now?"
    entries = json.loads(idle.run("vivavoce.transcript.toJson()"))["entries"]
    assert [(e["speaker"], e["text"], e["start"], e["state"]) for e in entries] == [
        ("you", "Is it open now?", 0.5, "final"), ("agent", "Yes,", 1.5, "interrupted")]  # fmt: skip
    assert idle.run("[...document.querySelectorAll('#said li')].map((li) => li.dataset.state)") == [
        "final", "interrupted", "failed"]  # fmt: skip
    idle.click("#forget")
    assert idle.run("document.querySelectorAll('li').length") == 0
    assert idle.run("document.querySelector('[data-save=txt]').disabled")


def test_each_download_has_its_name(idle: Tab) -> None:
    idle.run(f"for (const event of {CONVERSATION}) vivavoce.receive({{}}, event)")
    idle.run("globalThis.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push(this.download) }")
    for kind in ("txt", "srt", "json"):
        idle.run(f"document.querySelector('[data-save={kind}]').dispatchEvent(new Event('click'))")
    assert idle.run("saved") == ["transcript.txt", "transcript.srt", "transcript.json"]


def test_what_the_microphone_hears_is_what_the_server_gets(tab: Tab, server: Scripted, voice: Path) -> None:
    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.heard(5)

    server.play(script)
    tab.run(UNTOUCHED)  # noise suppression would change a chirp, which is no speech
    tab.click("#go")
    tab.until("vivavoce.running?.connection?.samples > 24000 * 5")
    assert tab.run("asked") == {"echoCancellation": True, "noiseSuppression": True, "autoGainControl": True,
                                "channelCount": 1}  # fmt: skip
    assert tab.run("Number(document.querySelector('#strip').ariaValueNow)") >= 0
    got = np.frombuffer(server.wires[0].pcm, "<i2") / 32768
    said = soundfile.read(voice)[0][48000 : 48000 * 3 : 2]
    assert best_match(said, got) > 0.98


def best_match(said: np.ndarray, got: np.ndarray) -> float:
    """The largest correlation coefficient of `said` with a stretch of `got`."""
    n = len(said) + len(got)
    cross = np.fft.irfft(np.fft.rfft(got, n) * np.conj(np.fft.rfft(said, n)), n)[: len(got) - len(said)]
    energy = np.cumsum(np.concatenate([[0.0], got**2]))
    stretches = np.sqrt(energy[len(said) :] - energy[: len(energy) - len(said)])[: len(cross)]
    return float((cross / (stretches * np.linalg.norm(said) + 1e-9)).max())


def test_stopping_waits_for_the_last_words(tab: Tab, server: Scripted) -> None:
    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.event("input_audio_buffer.commit")
        heard = len(wire.pcm)
        await wire.send(f"{TRANSCRIPTION}.completed", item_id="i0", transcript="before")  # not the last
        await wire.send("input_audio_buffer.committed", item_id="i1")
        await wire.send(f"{TRANSCRIPTION}.delta", item_id="i1", delta="the last")
        await wire.send(f"{TRANSCRIPTION}.completed", item_id="i1", transcript="the last word")
        await wire.gone()
        assert len(wire.pcm) == heard > 0

    server.play(script)
    tab.click("#go")
    tab.until("vivavoce.running?.connection?.samples > 2400")
    tab.click("#go")
    tab.until("document.querySelector('#status').textContent === 'Stopped'")
    assert tab.run("vivavoce.transcript.toText()") == "before\nthe last word\n"


# --- talking ----------------------------------------------------------------------------------------------------------


def tone(seconds: float) -> np.ndarray:
    return (4000 * np.sin(2 * np.pi * 220 * np.arange(int(RATE * seconds)) / RATE)).astype("<i2")


def talked_over(*decision: tuple[str, dict[str, Any]]) -> Any:
    """A script: a reply of 1.5 s, talked over once it plays; then the server decides."""

    async def script(wire: Wire) -> None:
        await wire.begin()
        await wire.event("session.update")
        await wire.reply("a1", tone(1.5), "A long answer")
        await wire.event("test.playing")
        at = await wire.heard(0.2)
        await wire.send("input_audio_buffer.speech_started", item_id="i2", audio_start_ms=int(at - 130) - 300)
        await wire.event("test.paused")
        for kind, fields in decision:
            await wire.send(kind, **fields)

    return script


PLAYING = "vivavoce.running.talk?.timed.has('a1')"
PAUSED = "vivavoce.running.talk.interruptions[0]?.noticed !== undefined"


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
    server.play(talked_over(("output_audio_buffer.cleared", {"response_id": "resp_1"})))
    seen = interruption(tab)
    assert seen["outcome"] == "cancelled"
    assert seen["noticed"] < NOTICED
    tab.until("vivavoce.running.talk.last?.what === 'cleared'")
    last = tab.run("vivavoce.running.talk.last")
    tab.until("vivavoce.running.connection.socket.bufferedAmount === 0")
    truncate = server.wires[0].all("conversation.item.truncate")[0]
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("a1", last["played"] // 24)
    assert 0 < truncate["audio_end_ms"] < 1500
    assert not tab.run("vivavoce.running.talk.speaking")


def test_a_false_alarm_pauses_and_the_reply_plays_on_to_its_last_sample(tab: Tab, server: Scripted) -> None:
    resumed = ("vivavoce.output_audio.resumed", {"response_id": "resp_1", "item_id": "a1", "reason": "backchannel"})
    server.play(talked_over(resumed))
    seen = interruption(tab)
    assert seen["outcome"] == "resumed"
    assert seen["noticed"] < NOTICED
    tab.until("!vivavoce.running.talk.speaking")
    tab.until("vivavoce.running.connection.socket.bufferedAmount === 0")
    told = [event["audio_end_ms"] for event in server.wires[0].all("vivavoce.output_audio.played")]
    assert told == sorted(told)
    assert len(told) >= 3
    assert tab.run("vivavoce.running.talk.last.played") == int(RATE * 1.5)
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
    return lambda slots: Recognizer(loaded.model, loaded.tokenizer, slots=slots, ngram=loaded.ngram)


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
    assert all(interruption["noticed"] < NOTICED for interruption in seen), seen
    assert 1 <= len(heard.split()) < 3000


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "words"), [("NotAllowedError", "is blocked"), ("NotFoundError", "No microphone"),
                                              ("NotReadableError", "cannot be opened")])  # fmt: skip
def test_a_microphone_that_cannot_be_had_is_explained(tab: Tab, error: str, words: str) -> None:
    tab.run(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{error}') }}")
    tab.click("#go")
    tab.until("document.body.dataset.tone === 'alert'")
    assert words in tab.text("#status")
    assert tab.text("#go") == "Start"


def test_a_full_server_is_tried_again_when_it_said(tab: Tab, server: Scripted) -> None:
    async def full(wire: Wire) -> None:
        error = {"type": "server_full", "code": "server_full", "message": "full", "retry_after_s": 1}
        await wire.send("error", error=error)
        await wire.close(1013)

    server.play(full, begun)
    tab.click("#go")
    tab.until("document.body.dataset.state === 'waiting'")
    assert tab.text("#status") == "The server is full. Trying again in 1 s"
    tab.until(LISTENING)


def test_a_server_with_keys_is_given_one(tab: Tab, server: Scripted) -> None:
    tab.run("""globalThis.fetch = async (url, {headers}) =>
        ({status: url === "v1/models" && headers.Authorization === "Bearer right" ? 200 : 401})""")
    tab.click("#go")
    tab.until("document.body.dataset.tone === 'alert'")
    assert "asks for a key" in tab.text("#status")
    assert server.wires == []
    tab.run("document.querySelector('#key').value = 'right'")
    tab.click("#go")
    tab.until(LISTENING)
    assert server.wires[0].protocols == ["realtime", "openai-insecure-api-key.right"]


def test_a_broken_line_comes_back_into_its_session_and_no_sound_is_lost(tab: Tab, server: Scripted) -> None:
    async def breaks(wire: Wire) -> None:
        await wire.begin()
        await wire.heard(0.5)
        await wire.close()

    async def goes_on(wire: Wire) -> None:
        assert wire.resumed == "token_1"
        await wire.begin()
        await wire.heard(1)

    server.play(breaks, goes_on)
    tab.click("#go")
    tab.until("vivavoce.running?.connection?.samples > 24000 * 2")
    server.check()
    assert len(server.wires) == 2
    sent = tab.run("vivavoce.running.connection.sent")
    assert sum(len(wire.pcm) // 2 for wire in server.wires) >= sent - RATE // 2  # in flight when the line broke, or now


def test_a_connection_that_stays_away_ends_with_what_to_do(tab: Tab, server: Scripted) -> None:
    async def closes(wire: Wire) -> None:
        await wire.close()

    server.play(closes)
    tab.run("const timeout = setTimeout; globalThis.setTimeout = (f, ms) => timeout(f, ms / 100)")
    tab.click("#go")
    tab.until("document.body.dataset.state === 'idle'")
    assert "was lost. Press start" in tab.text("#status")
    assert len(server.wires) == 7


# --- for everyone -----------------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything_in_order_and_starts_and_stops(tab: Tab) -> None:
    tab.size(1280, 800)
    reached = []
    for _ in range(6):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id || document.activeElement.value"))
    assert reached[:4] == ["captions", "go", "lookahead", "adaptive"]
    tab.run("document.querySelector('#go').focus()")
    tab.press("Enter")
    tab.until(LISTENING)
    tab.press(" ")
    tab.until("document.body.dataset.state === 'idle'")


def test_every_control_has_a_name_and_the_text_has_contrast(idle: Tab) -> None:
    nodes = idle.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "checkbox", "radio", "meter", "log", "main", "radiogroup")
    unnamed = [n["role"]["value"] for n in nodes
               if n.get("role", {}).get("value") in roles and not n.get("name", {}).get("value")]  # fmt: skip
    assert unnamed == []
    for scheme in ("light", "dark"):
        idle.prefer(color_scheme=scheme)
        for colour in ("ink", "muted", "faint", "accent", "alert"):
            assert contrast(idle, colour, "paper") >= 4.5 - 0.5 * (colour == "faint"), (scheme, colour)
        assert contrast(idle, "on-accent", "accent") >= 4.5


def contrast(tab: Tab, one: str, other: str) -> float:
    """The ratio of two of the page's colours, as WCAG 2 counts it."""

    def light(name: str) -> float:
        text = tab.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        rgb = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, bright = sorted([light(one), light(other)])
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 844), (844, 390), (1280, 800)])
def test_nothing_sticks_out_on_a_small_screen(idle: Tab, width: int, height: int) -> None:
    idle.size(width, height, phone=width < 900)
    idle.run(f"for (const event of {CONVERSATION}) vivavoce.receive({{}}, event)")
    assert idle.run("document.documentElement.scrollWidth") <= width
    assert idle.run("document.querySelector('#go').getBoundingClientRect().bottom") <= height
    assert idle.run("document.querySelector('#transcript').clientHeight") >= 80


def test_the_lookahead_says_what_it_costs_and_reaches_the_server(tab: Tab, server: Scripted) -> None:
    tab.size(1280, 800)
    tab.click("#go")
    tab.until(LISTENING)
    tab.run("document.querySelector('#lookahead').focus()")
    tab.press("ArrowLeft")
    assert tab.text("#lookahead-value") == "400 ms"
    assert "493 ms at worst" in tab.text("#lookahead-hint")
    tab.until("vivavoce.running.connection.socket.bufferedAmount === 0")
    tab.click("#go")
    tab.until("document.body.dataset.state === 'idle'")
    updates = [event["session"]["vivavoce"] for event in server.wires[0].all("session.update")]
    assert [update["lookahead_ms"] for update in updates] == [480, 400]
