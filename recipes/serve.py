"""`vivavoce serve`: everything over one port.

The models come from the options, the rooms and the application from `server/`; uvicorn runs them until Ctrl-C or
SIGTERM, which lets the sessions and requests inside finish first.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn

from vivavoce.recipes.options import add_hearing, add_model, add_writing, count, positive, recognizers, say, usable
from vivavoce.recipes.speak import VOICE, load_voice
from vivavoce.server import app
from vivavoce.server.capacity import measured
from vivavoce.server.guard import Limits
from vivavoce.server.house import House
from vivavoce.server.protocol import LARGEST
from vivavoce.server.realtime import Realtime
from vivavoce.server.replies import EndpointReplies, Replies
from vivavoce.server.rooms.thinking import ThinkingRoom
from vivavoce.speech.asr.recognizer import Recognizer
from vivavoce.speech.errors import BadCheckpoint, BadConfig
from vivavoce.speech.llm.assistant import MODEL as CHAT
from vivavoce.speech.llm.assistant import Assistant
from vivavoce.speech.punctuate import Punctuator, Writer
from vivavoce.speech.tts.synthesizer import Synthesizer
from vivavoce.speech.vad import Vad
from vivavoce.streaming.errors import VivaVoceError

SMALL = 30e6  # parameters; below this the matrices of one step are too small for threads to share
LEAST, MOST = 4, 256  # sessions, where nobody says how many
PONG = 180.0  # seconds; who sends faster than speech has much on the way to the rooms before its pong is read
RECEIVED = 256 * 2**10  # bytes of a connection that the system may hold for us, for the same reason
KEYS, LLM_KEY = "VIVAVOCE_API_KEY", "VIVAVOCE_LLM_KEY"


class NotServing(VivaVoceError, OSError):
    """The server could not start."""


class Server(uvicorn.Server):
    """uvicorn, which on the first signal takes nobody more and waits up to `patience` seconds for those inside."""

    def __init__(
        self, config: uvicorn.Config, realtime: Realtime, patience: float, ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._realtime, self._patience, self._ready = realtime, patience, ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        except OSError as e:  # somebody else began to listen there meanwhile
            raise NotServing(f"nothing can listen there ({e.strerror or e}); choose another --port") from e
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self._ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends it at once."""
        if self._loop is None or self._realtime.house.draining:
            super().handle_exit(sig, frame)
            return
        self._realtime.house.draining = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        sessions, requests = len(self._realtime.sessions), len(self._realtime.house.requests)
        if sessions or requests:
            say(f"ending when {sessions} sessions and {requests} requests have, in {self._patience:g} s at the latest; "
                "again to end now")  # fmt: skip
        await asyncio.gather(self._realtime.drain(self._patience), self._realtime.house.finish(self._patience))
        self.should_exit = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vivavoce serve",
        description="Serve recognition, speech and conversation: the OpenAI Realtime protocol at /v1/realtime, "
        "recordings at /v1/audio/transcriptions, speech at /v1/audio/speech, a page to talk to at /.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for everybody (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: %(default)s)")
    add_model(parser)
    add_hearing(parser)
    add_writing(parser)
    parser.add_argument("--max-sessions", type=count, metavar="N", help="at once (default: measured at the start)")
    parser.add_argument("--batch", type=count, metavar="N", help="sessions in one step of the model (default: all)")
    parser.add_argument(
        "--uploads", type=count, default=2, metavar="N", help="recordings at once (default: %(default)s)"
    )
    parser.add_argument(
        "--voice", default="auto", metavar="V", help="a name, a model folder, or none (default: a shipped one)"
    )
    parser.add_argument(
        "--speakers",
        type=count,
        default=4,
        metavar="N",
        help="replies spoken, and thought of by a model in this process, at once (default: %(default)s)",
    )
    parser.add_argument(
        "--llm",
        default="auto",
        metavar="local|URL|none",
        help="who answers: the model that ships, a model folder, or an OpenAI-compatible endpoint such as "
        f"http://localhost:11434/v1, its key in {LLM_KEY} (default: the model that ships)",
    )
    parser.add_argument("--llm-model", metavar="M", help="the model's name at that endpoint (default: its first)")
    guard = parser.add_argument_group("who may come in")
    guard.add_argument("--api-key", action="append", default=[], metavar="K", help=f"may be repeated; also from {KEYS}")
    guard.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="browser pages from elsewhere, like https://app.example; * for all",
    )
    guard.add_argument(
        "--rate-limit", type=int, default=0, metavar="N", help="requests a minute of one caller (default: none)"
    )
    guard.add_argument("--max-upload", type=positive, default=100.0, metavar="MB", help="(default: %(default)g)")
    guard.add_argument("--tls-cert", type=Path, metavar="FILE.pem", help="serve https and wss")
    guard.add_argument("--tls-key", type=Path, metavar="FILE.pem")
    parser.add_argument(
        "--drain",
        type=positive,
        default=30.0,
        metavar="S",
        help="how long SIGTERM waits for sessions and requests to end (default: %(default)g)",
    )
    parser.add_argument("--no-resume", action="store_true", help="end a session when its connection breaks")
    return parser


def house(args: argparse.Namespace, make: Callable[[int], Recognizer]) -> House:
    """The rooms of `serve`'s options. Raises what loading the models raises."""
    places = args.max_sessions or max(LEAST, measured(make, MOST))
    name, synthesizer = Path(args.model).name, voice(args)
    return House.build(
        name,
        make,
        Vad.load(),
        places=places,
        uploads=args.uploads,
        batch=args.batch,
        writer=Writer(Punctuator.load()) if args.punctuate else None,
        synthesizer=synthesizer,
        voices=args.speakers,
        speaker=args.voice,
        replies=replies(args),
    )


def share_processors(model: torch.nn.Module) -> None:
    """A small model's steps take one thread each: rooms step side by side, and threads that wait for each other cost
    more than they do, on a busy machine tenfold."""
    if sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)


def voice(args: argparse.Namespace) -> Synthesizer | None:
    """None where there is none: with --voice none, and, unless one was asked for, where none ships."""
    if args.voice == "none":
        return None
    try:
        loaded = load_voice(VOICE if args.voice == "auto" else args.voice, args.device)
    except BadCheckpoint as e:
        if args.voice != "auto":
            raise
        say(f"it will not speak: {e}")
        return None
    args.voice = VOICE if args.voice == "auto" else Path(args.voice).name
    return Synthesizer(loaded, slots=args.speakers)


def replies(args: argparse.Namespace) -> Replies | None:
    """None where nobody answers: with --llm none, and, unless it was asked for, where no language model ships."""
    if args.llm == "none":
        return None
    if args.llm.startswith(("http://", "https://")):
        return EndpointReplies(args.llm, model=args.llm_model, key=os.environ.get(LLM_KEY))
    device = usable(args.device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        source = CHAT if args.llm in ("auto", "local") else args.llm
        return ThinkingRoom(Assistant.load(source, slots=args.speakers, dtype=dtype, device=device))
    except BadCheckpoint as e:
        if args.llm != "auto":
            raise
        say(f"it will not answer: {e}")
        return None


def limits(args: argparse.Namespace) -> Limits:
    keys = tuple(key for key in (*args.api_key, *os.environ.get(KEYS, "").split(",")) if key)
    return Limits(keys, tuple(args.allow_origin), args.rate_limit, round(args.max_upload * 2**20))


def config(args: argparse.Namespace, application: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        host=args.host,
        port=args.port,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=LARGEST,
        ws_ping_timeout=PONG,
        ws_per_message_deflate=False,  # sound in base64 does not shrink enough to be worth the work
        timeout_graceful_shutdown=5,
        ssl_certfile=args.tls_cert,
        ssl_keyfile=args.tls_key,
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket to listen on later. Raises NotServing."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        taken.bind((host, port))
    except (OSError, OverflowError) as e:
        taken.close()
        reason = getattr(e, "strerror", None) or e
        raise NotServing(f"nothing can listen at {host} port {port} ({reason}); end what does, or choose another "
                         "--host or --port") from e  # fmt: skip
    return taken


@contextmanager
def threaded(settings: uvicorn.Config, realtime: Realtime) -> Iterator[str]:
    """A server in threads of this process; yields its address, like http://127.0.0.1:4321. Raises NotServing."""
    addresses: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
    server = Server(settings, realtime, 0.0, addresses.put)

    def run() -> None:
        try:
            server.run()
        except BaseException as e:  # SystemExit, too: so uvicorn ends when it cannot start
            addresses.put(e)

    thread = threading.Thread(target=run, name="vivavoce server")
    thread.start()
    try:
        address = addresses.get()
        if not isinstance(address, str):
            raise NotServing("the server in this process did not start; see what it says above") from address
        yield address
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(args: argparse.Namespace | None = None) -> Iterator[str]:
    """A server in threads of this process, for one conversation; yields its address. args: those of `serve`'s options
    that are to be other than usual. Raises NotServing, and what loading the models raises."""
    options = _parser().parse_args(["--port", "0", "--max-sessions", "2", "--no-resume"])
    for name in ("model", "decoder", "device", "voice", "llm", "llm_model"):
        setattr(options, name, getattr(args, name, None) or getattr(options, name))
    application = app.build(house(options, recognizers(options)))
    with threaded(config(options, application), application.state.realtime) as address:
        yield address.replace("http", "ws", 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Raises NotServing; what loading the models raises; BadConfig for TLS files that cannot be used."""
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    with bound(args.host, args.port) as place:  # before the models are loaded, which takes a while
        return _serve(args, place)


def _serve(args: argparse.Namespace, place: socket.socket) -> int:
    make = recognizers(args)
    share_processors(make(1).model)
    rooms = house(args, make)
    application = app.build(rooms, limits(args))
    realtime: Realtime = application.state.realtime
    realtime.resume = 0.0 if args.no_resume else realtime.resume
    try:
        settings = config(args, application)
        settings.load()
    except OSError as e:
        raise BadConfig(f"--tls-cert {args.tls_cert}, --tls-key {args.tls_key}: {e.strerror or e}") from e

    def ready(address: str) -> None:
        say(f"{address} serves {rooms.model} to {rooms.hearing.places} sessions at once; Ctrl-C ends")

    # uvicorn calls it an error of ours when a socket is refused before its handshake
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing handshake" not in record.getMessage()
    )
    server = Server(settings, realtime, args.drain, ready)
    server.run([place])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
