"""Realtime sessions over real sockets, with OpenAI's own client as it is and with clients that misbehave."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest
import torch
from babble import noise
from hum import Hum, hum
from numpy.typing import NDArray
from serving import Script, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from vivavoce.recipes import sample
from vivavoce.recipes.data.voices import say
from vivavoce.server import app
from vivavoce.server.encode import pcm16
from vivavoce.server.house import House
from vivavoce.server.realtime import Realtime
from vivavoce.server.replies import EndpointReplies
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.resample import Resample
from vivavoce.speech.vad import Vad

pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")  # as OpenAI's does not
Make = Callable[[int], Recognizer]
PLACES = 4
MANUAL = {"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000},
                                                       "turn_detection": None}}}  # fmt: skip


class Served:
    """A server, what is inside it, and the script of its language model."""

    def __init__(self, at: str, house: House, realtime: Realtime, script: Script) -> None:
        self.at, self.house, self.realtime, self.script = at, house, realtime, script
        self.client = openai.OpenAI(base_url=f"http://{at}/v1", api_key="none", max_retries=0)

    def socket(self, query: str = "intent=transcription") -> ClientConnection:
        return connect(f"ws://{self.at}/v1/realtime?{query}", max_size=None)

    def settled(self) -> bool:
        """Whether nothing of any session is left, once the rooms have done what they were asked."""
        for room in self.house.rooms:
            room.ask(lambda: None).result(300)
        engine = self.house.hearing.recognizer.engine
        slots = engine.state.slots
        return not self.realtime.sessions and engine.free == slots and not any(room.taken for room in self.house.rooms)


@pytest.fixture(scope="module")
def served(recognizer: Make) -> Iterator[Served]:
    script = Script()
    with running(script.app()) as model:
        house = House.build("tiny", recognizer, Vad.load(), places=PLACES, synthesizer=Hum(slots=4), voices=4,
                            speaker="hum", replies=EndpointReplies(f"http://{model}/v1"))  # fmt: skip
        house.hearing.slack = float("inf")  # a slow machine is no reason to turn anybody away here
        application = app.build(house)
        with running(application) as at:
            yield Served(at, house, application.state.realtime, script)


def receive(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next event of one of these kinds; errors are shown."""
    while True:
        event: dict[str, Any] = json.loads(socket.recv(timeout=300))
        if event["type"] in kinds:
            return event
        assert event["type"] != "error", event


def send(socket: ClientConnection, **event: Any) -> None:
    socket.send(json.dumps(event))


def append(socket: ClientConnection, pcm: NDArray[np.float32], size: int = 1600) -> None:
    for i in range(0, len(pcm), size):
        send(socket, type="input_audio_buffer.append", audio=base64.b64encode(pcm16(pcm[i : i + size])).decode())


def transcript(socket: ClientConnection, pcm: NDArray[np.float32]) -> str:
    """What a session without turn detection makes of one recording at 16 kHz."""
    receive(socket, "session.created")
    send(socket, type="session.update", session=MANUAL)
    append(socket, pcm)
    send(socket, type="input_audio_buffer.commit")
    text: str = receive(socket, "conversation.item.input_audio_transcription.completed")["transcript"]
    return text


def expected(make: Make, pcm: NDArray[np.float32], lookahead: int = 6) -> str:
    sent = np.frombuffer(pcm16(pcm), "<i2").astype(np.float32) / 32768
    return make(1).transcribe(torch.from_numpy(sent), lookahead=lookahead).text


def speech24() -> NDArray[np.float32]:
    """A spoken sentence and then silence, at 24 kHz."""
    pcm = torch.from_numpy(say(sample.SENTENCE, sample.VOICE)).float()
    stage = Resample(16000, 24000)
    y, _ = stage.step(pcm[None], stage.init_state(1), torch.tensor([len(pcm)]), torch.tensor([True]))
    return np.concatenate([np.zeros(6000, np.float32), y[0].numpy(), np.zeros(48000, np.float32)])


# --- OpenAI's client --------------------------------------------------------------------------------------------------


def test_the_official_client_transcribes(served: Served, recognizer: Make) -> None:
    pcm, said, final = noise(3, seed=1), "", ""
    with served.client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session=MANUAL)  # type: ignore[arg-type]
        data = pcm16(pcm)
        for i in range(0, len(data), 3200):
            connection.input_audio_buffer.append(audio=base64.b64encode(data[i : i + 3200]).decode())
        connection.input_audio_buffer.commit()
        for event in connection:
            if event.type == "conversation.item.input_audio_transcription.delta":
                said += event.delta or ""
            elif event.type == "conversation.item.input_audio_transcription.completed":
                final = event.transcript
                break
    assert final.split() == said.split() == expected(recognizer, pcm).split()
    assert len(final.split()) > 3


def test_the_official_client_talks_interrupts_and_truncates(served: Served) -> None:
    going_on = threading.Event()
    served.script.replies = [["It is a long ", "story, and it begins at sea. ", going_on, "Nobody hears this."],
                             ["Good."]]  # fmt: skip
    seen, cut, sound = list[str](), list[tuple[str, int]](), b""
    speech = base64.b64encode(pcm16(speech24())).decode()
    with served.client.realtime.connect(model="gpt-realtime") as connection:
        connection.input_audio_buffer.append(audio=speech)
        item = ""
        for event in connection:
            seen.append(event.type)
            assert event.type != "error", event
            if event.type == "response.output_audio.delta":
                if not sound:  # the user talks over it
                    connection.input_audio_buffer.append(audio=speech)
                sound += base64.b64decode(event.delta)
                item = event.item_id
            if event.type == "response.done":
                assert event.response.status == "cancelled"
                break
        connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=100)
        for event in connection:
            seen.append(event.type)
            if event.type == "conversation.item.truncated":
                cut.append((event.item_id, event.audio_end_ms))
            if event.type == "response.done" and event.response.status == "completed":
                break
    going_on.set()
    heard = np.frombuffer(sound, "<i2").astype(np.float32) / 32767
    begun = np.concatenate([hum(word) for word in ("It ", "is ", "a ", "long ", "story, ")])
    assert np.abs(heard[:4800] - begun[:4800]).max() < 1e-3
    order = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
             "response.created", "response.output_audio.delta", "response.done", "conversation.item.truncated",
             "response.created", "response.done"]  # fmt: skip
    rest = iter(seen)
    assert cut[-1] == (item, 100)  # the client knows better than the server's clock
    assert all(kind in rest for kind in order), seen
    first, second = served.script.prompts[-2:]
    assert first["messages"][-1]["role"] == "user"
    answer = [m for m in second["messages"] if m["role"] == "assistant"]
    assert not any("Nobody hears this" in str(m["content"]) for m in answer)


def test_the_official_client_calls_a_tool(served: Served) -> None:
    served.script.replies = [[("weather", '{"city": "Oslo"}')], ["It rains."]]
    tool = {"type": "function", "name": "weather", "description": "the weather", "parameters": {"type": "object"}}
    with served.client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "tools": [tool], "output_modalities": ["text"]})  # type: ignore[typeddict-item]
        question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And in Oslo?"}]}
        connection.conversation.item.create(item=question)  # type: ignore[arg-type]
        connection.response.create()
        said = ""
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.function_call_arguments.done":
                assert json.loads(event.arguments) == {"city": "Oslo"}
                result = {"type": "function_call_output", "call_id": event.call_id, "output": '"rain"'}
            if event.type == "response.done":
                if event.response.output and event.response.output[0].type == "function_call":
                    connection.conversation.item.create(item=result)  # type: ignore[arg-type]
                    connection.response.create()
                else:
                    break
            if event.type == "response.output_text.delta":
                said += event.delta
    assert said == "It rains."
    assert served.script.prompts[-1]["messages"][-1]["role"] == "tool"
    assert served.script.prompts[-1]["tools"][0]["function"]["name"] == "weather"


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", [0, 6, 13])
def test_words_are_those_of_transcribe_at_the_same_lookahead(served: Served, recognizer: Make, lookahead: int) -> None:
    pcm = noise(2.7, seed=8)
    with served.socket() as socket:
        settings = {"type": "transcription", "vivavoce": {"lookahead_ms": lookahead * 80}}
        send(socket, type="session.update", session=settings)
        assert transcript(socket, pcm) == expected(recognizer, pcm, lookahead)


def test_a_full_server_says_so_and_when_to_come_back(served: Served) -> None:
    sockets = [served.socket() for _ in range(PLACES)]
    for socket in sockets:
        receive(socket, "session.created")
    with served.socket() as refused:
        event = json.loads(refused.recv(timeout=300))
        assert (event["type"], event["error"]["code"]) == ("error", "server_full")
        assert event["error"]["retry_after_s"] > 0
        with pytest.raises(ConnectionClosed) as closed:
            refused.recv(timeout=300)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    for socket in sockets:
        socket.close()


def test_a_broken_connection_goes_on_where_it_was(served: Served, recognizer: Make) -> None:
    pcm = noise(3, seed=9)
    socket = served.socket()
    created = receive(socket, "session.created")
    token = created["session"]["vivavoce"]["resume_token"]
    send(socket, type="session.update", session=MANUAL)
    append(socket, pcm[:24000])
    send(socket, type="session.update", session={"type": "transcription", "vivavoce": {"stats": False}})
    receive(socket, "session.updated")
    last = receive(socket, "session.updated")
    socket.socket.shutdown(2)  # no goodbye
    with served.socket(f"resume={token}&last_event={last['event_id']}") as again:
        assert receive(again, "session.created")["session"]["id"] == created["session"]["id"]
        append(again, pcm[24000:])
        send(again, type="input_audio_buffer.commit")
        done = receive(again, "conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == expected(recognizer, pcm)


def test_who_comes_back_before_the_old_connection_is_seen_to_break_gets_everything(served: Served) -> None:
    with served.socket() as old:
        token = receive(old, "session.created")["session"]["vivavoce"]["resume_token"]
        for _ in range(2):
            send(old, type="session.update", session=MANUAL)
        first, second = receive(old, "session.updated"), receive(old, "session.updated")
        with served.socket(f"resume={token}&last_event={first['event_id']}") as new:
            with pytest.raises(ConnectionClosed):
                old.recv(timeout=300)
            assert json.loads(new.recv(timeout=300))["type"] == "session.created"
            assert json.loads(new.recv(timeout=300)) == second
            send(new, type="session.update", session=MANUAL)
            assert json.loads(new.recv(timeout=300))["type"] == "session.updated"


def close_without_a_code(socket: ClientConnection) -> None:
    """As a browser's `close()` does."""
    socket.protocol.send_close()
    for data in socket.protocol.data_to_send():
        socket.socket.sendall(data)


@pytest.mark.parametrize(
    ("go", "answer"),
    [
        (lambda socket: socket.close(), "error"),
        (lambda socket: socket.close(1001), "error"),
        (close_without_a_code, "error"),
        (lambda socket: socket.socket.shutdown(2), "session.created"),
    ],
    ids=["close", "going away", "close without a code", "broken"],
)
def test_a_goodbye_ends_the_session_and_a_break_does_not(
    served: Served, go: Callable[[ClientConnection], None], answer: str
) -> None:
    socket = served.socket()
    token = receive(socket, "session.created")["session"]["vivavoce"]["resume_token"]
    go(socket)
    while any(session.socket is not None for session in list(served.realtime.sessions.values())):
        served.settled()  # until the server has seen it go
    with served.socket(f"resume={token}") as again:
        assert json.loads(again.recv(timeout=300))["type"] == answer


def test_a_token_that_nobody_waits_under_is_refused(served: Served) -> None:
    with served.socket("resume=guess") as socket:
        event = json.loads(socket.recv(timeout=300))
        assert event["error"]["code"] == "unknown_resume_token"


def test_a_broken_connection_is_waited_for_no_longer_than_was_said(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.realtime, "resume", 0.01)
    socket = served.socket()
    token = receive(socket, "session.created")["session"]["vivavoce"]["resume_token"]
    socket.socket.shutdown(2)
    while not served.settled():  # until the server has seen it go, and given it up
        pass
    with served.socket(f"resume={token}") as again:
        assert json.loads(again.recv(timeout=300))["error"]["code"] == "unknown_resume_token"


def test_who_is_away_gives_way_to_who_comes(served: Served) -> None:
    tokens, sockets = [], [served.socket() for _ in range(PLACES)]
    for socket in sockets:
        tokens.append(receive(socket, "session.created")["session"]["vivavoce"]["resume_token"])
        socket.socket.shutdown(2)
    while any(session.socket is not None for session in served.realtime.sessions.values()):
        served.settled()  # until the server has seen them go
    sockets = [served.socket() for _ in range(PLACES)]
    for socket in sockets:
        receive(socket, "session.created")
        socket.close()
    with served.socket(f"resume={tokens[0]}") as socket:
        assert json.loads(socket.recv(timeout=300))["error"]["code"] == "unknown_resume_token"


def test_an_unknown_model_is_refused_with_the_ones_there_are(served: Served) -> None:
    with served.socket("model=gpt-9") as socket:
        error = json.loads(socket.recv(timeout=300))["error"]
        assert error["code"] == "model_not_found"
        assert "tiny" in error["message"]
