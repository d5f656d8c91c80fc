"""The page: its files as they are served, and what it shows in a real browser, against a server that tests script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Tab
from page import LISTENING, UNTOUCHED, begun
from scripted import RATE, TRANSCRIPTION, Scripted, Wire
from starlette.applications import Starlette
from starlette.testclient import TestClient

from vivavoce.server import site

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
    parts = [best_match(part, got) for part in np.split(said, 20)]
    assert np.median(parts) > 0.98  # a busy browser drops a block here and there


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


def wide(tab: Tab) -> None:
    """A window so wide that the settings lie open; the page opens them at its next frame."""
    tab.size(1280, 800)
    tab.until("document.querySelector('#more').open")


# --- for everyone -----------------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything_in_order_and_starts_and_stops(tab: Tab) -> None:
    wide(tab)
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
    wide(tab)
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
