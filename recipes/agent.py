"""`vivavoce agent`: a spoken conversation in the terminal, with a server or with one that it starts in this process.

The microphone goes up the socket, less the echo of the loudspeaker (`echo`); `duplex` turns what comes down into what
to play (`player`), send and show. `--measure` needs no devices: see `voice_to_voice`.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from vivavoce.recipes.duplex import RATE, Clear, Duplex, Output, Pause, Play, Resume, Send, Show, Stages, Trouble
from vivavoce.recipes.echo import Canceller
from vivavoce.recipes.listen import Screen, on_interrupt, screen
from vivavoce.recipes.options import add_model, count, lookahead, say
from vivavoce.recipes.player import Player
from vivavoce.speech.devices import Loudspeaker, Microphone
from vivavoce.speech.errors import MissingDependency
from vivavoce.streaming.errors import VivaVoceError

Samples = NDArray[np.float32]
LOOKAHEAD = 80  # ms
SEMANTIC = {"type": "semantic_vad"}  # a turn ends sooner the more complete it sounds
PATH = "/v1/realtime"
LEAVING = 30.0  # seconds that what the server said last may take, on a busy machine, to be told


class NoServer(VivaVoceError, OSError):
    """No server at that address, it refused, or it went away."""


class Agent:
    """One conversation: `hear` takes the microphone's sound, `obey` the server's events, from a thread each.

    send(text or bytes): to the server. show: where lines go; stats: also the delay of each reply.
    """

    def __init__(
        self, send: Callable[[str | bytes], None], player: Player, show: Screen, canceller: Canceller | None = None, *,
        stats: bool = False, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.duplex, self.trouble = Duplex(), None
        self._send, self._player, self._screen, self._canceller = send, player, show, canceller
        self._stats, self._now = stats, now
        self._lock = threading.Lock()  # the conversation and the screen
        self._sent, self._sent_at = 0, now()  # samples, and when the last of them was heard

    def hear(self, pcm: Samples) -> None:
        """(n,) float32 at 24 kHz."""
        clean = self._canceller.near(pcm) if self._canceller else pcm
        self._send((np.clip(clean, -1, 1) * 32767).round().astype("<i2").tobytes())
        with self._lock:
            self._sent, self._sent_at = self._sent + len(clean), self._now()
            self._do(self.duplex.tick(self._player.playing))

    def obey(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._do(self.duplex.receive(event, self._player.playing))

    def _do(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case Play():
                    self._play(output)
                case Pause():
                    self._player.pause()
                case Resume():
                    self._player.resume()
                case Clear():
                    if cut := self._player.clear():
                        self._do(self.duplex.cleared(*cut))
                case Send():
                    self._send(json.dumps(output.event))
                case Show():
                    self._show(output)
                case Stages() if self._stats:
                    say(" + ".join(f"{name} {ms:.0f}" for name, ms in output.stages) + " ms")
                case Trouble():
                    say(output.message)

    def _play(self, play: Play) -> None:
        if self._stats and self.duplex.stopped_at_ms is not None:
            stopped = self._sent_at - (self._sent / RATE - self.duplex.stopped_at_ms / 1000)
            say(f"first sound {(self._now() - stopped) * 1000:.0f} ms after your last")
            self.duplex.stopped_at_ms = None
        self._player.push(play.item, play.pcm)

    def _show(self, line: Show) -> None:
        text = f"{line.who}: {line.text}"
        if line.final:
            self._screen.final(text)
        else:
            self._screen.live(text, line.tail)


def session(lookahead: int, turn_detection: Mapping[str, Any] = SEMANTIC, *, stats: bool = True) -> dict[str, Any]:
    """The first event of a conversation; lookahead in ms."""
    pcm = {"type": "audio/pcm", "rate": RATE}
    audio = {"input": {"format": pcm, "turn_detection": turn_detection}, "output": {"format": pcm}}
    own = {"lookahead_ms": lookahead, "stats": stats}
    return {"type": "session.update", "session": {"type": "realtime", "audio": audio, "vivavoce": own}}


@contextmanager
def connected(url: str, key: str | None = None) -> Iterator[ClientConnection]:
    """A socket to ws://HOST:PORT, with the protocol's path where it names none. Raises NoServer."""
    url = url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        socket = connect(url, additional_headers=headers, max_size=None, compression=None)
    except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as e:
        raise NoServer(f"no conversation at {url} ({e}); start one with `vivavoce serve`, or check --url") from e
    fault: BaseException | None = None
    try:
        with socket:
            try:
                yield socket
            except BaseException as e:
                fault = e
                raise
    except ConnectionClosed:  # on leaving, too, where the server closed first: what went wrong before matters more
        if fault is not None:
            raise fault from None


def converse(socket: ClientConnection, agent: Agent, wishes: Mapping[str, Any], blocks: Iterable[Tensor],
             stop: Callable[[], None]) -> None:
    """A session set up by `wishes`, a session.update, until the blocks (n,) at 24 kHz end, or the server goes away:
    then stop() is called, and NoServer raised."""
    faults: list[VivaVoceError] = []
    leaving = threading.Event()

    def listen() -> None:
        try:
            for message in socket:
                agent.obey(json.loads(message))
        except ConnectionClosed:
            pass
        except VivaVoceError as e:  # of the loudspeaker
            faults.append(e)
        if not leaving.is_set():
            stop()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    try:
        socket.send(json.dumps(wishes))
        for block in blocks:
            if not listening.is_alive():
                break
            agent.hear(block.numpy())
    except ConnectionClosed:
        listening.join(LEAVING)  # what came before is heard, and the microphone stopped
    lost = socket.close_code is not None
    leaving.set()
    socket.close()
    listening.join(LEAVING)  # it may hang in a device that died
    if faults:
        raise faults[0]
    if lost:
        raise NoServer("the server ended the conversation; see what it says, and start again")


def canceller() -> Canceller | None:
    """Echo cancellation, or a word on what to do without."""
    try:
        return Canceller()
    except MissingDependency as e:
        say(f"please put headphones on, or the agent hears itself ({e})")
        return None


def server(args: argparse.Namespace) -> AbstractContextManager[str]:
    """The address of the server that was asked for, or of one in this process for as long as it is needed."""
    if args.url:
        return nullcontext(args.url)
    from vivavoce.recipes import serve  # with all the models

    return serve.running(args)


def talk(args: argparse.Namespace, url: str) -> None:
    echo = canceller()
    with (
        connected(url, args.api_key) as socket,
        Loudspeaker(args.output_device, RATE) as loudspeaker,
        Player(loudspeaker, echo) as player,
        Microphone(args.input_device, RATE) as microphone,
        screen() as where,
    ):
        agent = Agent(socket.send, player, where, echo, stats=args.stats)
        wishes = session(args.lookahead.ms, stats=args.stats)
        say(f"listening to {microphone.device}, speaking on {loudspeaker.device}; talk when you like; Ctrl-C ends")
        with on_interrupt(microphone.stop):
            converse(socket, agent, wishes, microphone, microphone.stop)
        player.clear()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce agent",
        description="Talk with the agent, over microphone and loudspeaker; talk over it whenever you like. What is "
        "said appears as text. Ctrl-C ends.",
    )
    parser.add_argument("--url", metavar="WS", help="a running server, like ws://localhost:8000 (default: none, start "
                        "everything in this process)")  # fmt: skip
    parser.add_argument("--api-key", metavar="K", help="where that server asks for one")
    parser.add_argument("--input-device", metavar="D", help="number, name or part of a name of the microphone")
    parser.add_argument("--output-device", metavar="D", help="likewise of the loudspeaker")
    parser.add_argument("--lookahead", type=lookahead, default=str(LOOKAHEAD), metavar="MS",
                        help="0 to 5520 ms: more is more accurate and later (default: %(default)s)")  # fmt: skip
    parser.add_argument("--stats", action="store_true", help="show what each reply took, stage by stage")
    parser.add_argument("--measure", type=count, metavar="N", help="no devices: put N spoken questions and show the "
                        "median and the 95th percentile of every stage")  # fmt: skip
    add_model(parser)
    parser.add_argument("--voice", default="auto", metavar="V", help="of the agent without --url: a name or a folder")
    parser.add_argument(
        "--llm",
        default="local",
        metavar="local|URL",
        help="who answers without --url: the model that ships, a model folder, or an OpenAI-compatible endpoint such "
        "as http://localhost:11434/v1 (default: %(default)s)",
    )
    parser.add_argument("--llm-model", metavar="M", help="the model's name at that endpoint (default: its first)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Raises NoServer, MissingDevice, MissingDependency, and what loading the models raises."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    with server(args) as url:
        if args.measure:
            from vivavoce.recipes import voice_to_voice

            print(voice_to_voice.table(voice_to_voice.measure(url, args.measure, args.lookahead.ms, args.api_key)))
        else:
            talk(args, url)
    return 0
