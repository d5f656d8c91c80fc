"""The endpoints for recordings and for speech, and what tells others about the server.

Requests come as OpenAI's API has them; recordings go through the files room, texts through the speaking room, and
answers leave as they are made where the caller asks for a stream.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from torch import Tensor

from vivavoce.speech import audio
from vivavoce.speech.asr.transcript import FORMATS, Transcript, cues
from vivavoce.speech.asr.words import Word
from vivavoce.speech.errors import BadAudio, BadSpeech
from vivavoce.speech.tts.ssml import FASTEST, SLOWEST, Reader
from vivavoce.streaming.errors import VivaVoceError

from .bridge import Listener, Speaker
from .encode import CONTENT_TYPES, Encoder
from .guard import Refusal, Refused
from .house import House
from .metrics import CONTENT_TYPE
from .rooms.room import Busy

RATE = 16000
FIELDS = frozenset(
    """file model language prompt response_format temperature stream include timestamp_granularities
    chunking_strategy lookahead_ms""".split()  # noqa: SIM905
)  # those of the API, and ours; the ones that this recogniser has no use for change nothing
PLAIN = {"text": ("txt", "text/plain"), "srt": ("srt", "application/x-subrip"), "vtt": ("vtt", "text/vtt")}
QUEUE_SECONDS = 30.0  # how long an upload waits for its turn
BLOCK_SECONDS = 5.6  # of an upload, read at a time


class SpeechRequest(BaseModel):
    """The body of POST /v1/audio/speech."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: str = Field(max_length=20_000)
    voice: str | dict[str, str] = ""
    instructions: str = ""
    response_format: str = "mp3"
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST)
    stream_format: str = "audio"


def routes(house: House) -> list[BaseRoute]:
    endpoint = Endpoints(house)
    return [
        Route("/v1/audio/transcriptions", endpoint.transcriptions, methods=["POST"]),
        Route("/v1/audio/speech", endpoint.speech, methods=["POST"]),
        Route("/v1/models", endpoint.models),
        Route("/v1/models/{name}", endpoint.model),
        Route("/healthz", endpoint.healthz),
        Route("/readyz", endpoint.readyz),
        Route("/metrics", endpoint.metrics),
    ]


def needs_key(path: str) -> bool:
    """Who has no key may see that the server lives, and the page, which asks for one."""
    return path.startswith("/v1/")


class Endpoints:
    """What the routes do, for one house."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._turns = asyncio.Semaphore(house.files.places)

    async def transcriptions(self, request: Request) -> Response:
        async with request.form(max_files=1, max_fields=50) as form:
            asked = _Asked.of(form, self.house)
            folder = tempfile.TemporaryDirectory(prefix="vivavoce-")
            try:
                path = Path(folder.name) / asked.name
                await asyncio.to_thread(_copy, asked.upload, path)
                reading = self._read(path, asked.frames, folder)
            except BaseException:
                folder.cleanup()
                raise
        if asked.stream:
            return await _streamed(_transcript_events(reading), "text/event-stream")
        words, samples = list[Word](), 0
        async with aclosing(reading):
            async for heard, samples in reading:  # noqa: B007
                words += heard
                if await request.is_disconnected():
                    break
        lookahead_ms = self.house.files.clock.lookahead_ms(asked.frames)
        transcript = Transcript(tuple(words), samples, model=self.house.model, lookahead_ms=lookahead_ms)
        return asked.answer(transcript)

    async def _read(
        self, path: Path, lookahead: int, folder: tempfile.TemporaryDirectory[str]
    ) -> AsyncGenerator[tuple[tuple[Word, ...], int]]:
        """The words of a file as they are heard, with the samples heard so far. Raises what `audio.blocks` raises."""
        try:
            async with self._turn():
                listener = Listener(self.house.files, lookahead=lookahead)
                feeding = asyncio.create_task(_feed(listener, audio.blocks(path, seconds=BLOCK_SECONDS)))
                try:
                    async for heard in listener:
                        self.house.metrics.audio_in.inc(self.house.files.clock.seconds(heard.taken))
                        yield heard.words, heard.at_sample
                    await feeding
                finally:
                    feeding.cancel()
                    listener.close()
        except BadAudio as e:
            raise BadAudio(str(e).replace(f"{path.parent}/", "")) from e
        finally:
            folder.cleanup()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the files room's places, after a while in the queue; Busy when the queue does not move."""
        try:
            await asyncio.wait_for(self._turns.acquire(), QUEUE_SECONDS)
        except TimeoutError:
            raise Busy("too many recordings are being transcribed; send this one again in a while", 30.0) from None
        try:
            yield
        finally:
            self._turns.release()

    async def speech(self, request: Request) -> Response:
        try:
            asked = SpeechRequest.model_validate_json(await request.body())
        except ValidationError as e:
            fault = e.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))  # nowhere, where the body is no JSON object
            raise bad(f"{where or 'the body'}: {fault['msg']}", where.split(".")[0] or None) from None
        if self.house.speaking is None:
            raise bad("this server has no voice; start it with one: vivavoce serve --voice NAME", "model")
        require(self.house, asked.model, self.house.speaks)
        if not asked.input.strip():
            raise bad("input is empty; send the text to speak", "input")
        _check_markup(asked.input)
        if asked.stream_format not in ("audio", "sse"):
            raise bad(f"stream_format {asked.stream_format!r} is not offered; choose audio or sse", "stream_format")
        encoder = Encoder(asked.response_format, self.house.speaking.synthesizer.sample_rate)
        sound = self._sound(Speaker(self.house.speaking, rate=asked.speed), asked.input, encoder)
        if asked.stream_format == "sse":
            return await _streamed(_sound_events(sound), "text/event-stream")
        return await _streamed(sound, CONTENT_TYPES[asked.response_format])

    async def _sound(self, speaker: Speaker, text: str, encoder: Encoder) -> AsyncGenerator[bytes]:
        speaker.say(text)
        samples = 0
        try:
            async for spoken in speaker:
                samples += len(spoken.pcm)
                self.house.metrics.audio_out.inc(len(spoken.pcm) / encoder.rate)
                if len(spoken.pcm) and (block := encoder.push(spoken.pcm)):
                    yield block
            if not samples:
                raise bad("there is nothing in input that this voice can say; send words in its language", "input")
            if rest := encoder.finish():
                yield rest
        finally:
            speaker.close()

    async def models(self, request: Request) -> Response:
        data = [_model(name) for own, others in self.house.names().items() for name in (own, *others)]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        require(self.house, request.path_params["name"], (request.path_params["name"],))
        return JSONResponse(_model(request.path_params["name"]))

    async def healthz(self, request: Request) -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether it is worth sending somebody here."""
        room = self.house.hearing
        state = "draining" if self.house.draining else "full" if room.taken >= room.places else "ready"
        body = {"status": state, "sessions": room.taken, "places": room.places}
        return JSONResponse(body, 200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self.house.metrics.exposition(), media_type=CONTENT_TYPE)


@dataclass(frozen=True)
class _Asked:
    """A transcription request: the upload, the lookahead in frames, and how the answer is to look."""

    upload: UploadFile
    name: str
    frames: int
    form: str
    stream: bool
    word_times: bool

    @classmethod
    def of(cls, form: FormData, house: House) -> Self:
        """Raises Refused for what is missing, unknown or not offered; BadLookahead."""
        if unknown := {name.removesuffix("[]") for name in form} - FIELDS:
            raise bad(f"unknown field {min(unknown)!r}; the fields are {', '.join(sorted(FIELDS))}", min(unknown))
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise bad("file is missing; send the recording as multipart/form-data", "file")
        require(house, str(form.get("model", "")), house.hears)
        kind = str(form.get("response_format", "json"))
        if kind not in ("json", "verbose_json", *PLAIN):
            offered = "json, text, srt, vtt or verbose_json"
            raise bad(f"response_format {kind!r} is not offered; choose {offered}", "response_format")
        frames, _ = house.files.clock.lookahead_frames(str(form.get("lookahead_ms", "offline")))
        name = re.sub(r"[^\w.-]", "_", Path(upload.filename or "upload").name)[-80:]
        granular = [str(v) for k, v in form.multi_items() if k.startswith("timestamp_granularities")]
        stream = str(form.get("stream", "")).lower() in ("true", "1")
        return cls(upload, name, frames, kind, stream, "word" in granular)

    def answer(self, transcript: Transcript) -> Response:
        if self.form in PLAIN:
            form, media = PLAIN[self.form]
            return PlainTextResponse(FORMATS[form](transcript), media_type=media)
        body: dict[str, Any] = {"text": transcript.text, "usage": usage(transcript.duration)}
        if self.form == "verbose_json":
            body |= {"task": "transcribe", "language": "english", "duration": round(transcript.duration, 3),
                     "segments": segments(transcript)}  # fmt: skip
            if self.word_times:
                body["words"] = json.loads(FORMATS["json"](transcript))["words"]
        return JSONResponse(body)


def segments(transcript: Transcript) -> list[dict[str, Any]]:
    """The subtitles of a transcript as `verbose_json` has them; the fields of another kind of model are neutral."""
    rate, out = transcript.sample_rate, list[dict[str, Any]]()
    for i, cue in enumerate(cues(transcript)):
        sure = [w.confidence for w in transcript.words if cue.start_sample <= w.start_sample < cue.stop_sample]
        mean = sum(math.log(max(c, 1e-6)) for c in sure) / max(1, len(sure))
        out.append({"id": i, "seek": 0, "start": round(cue.start_sample / rate, 3),
                    "end": round(cue.stop_sample / rate, 3), "text": " ".join(cue.lines), "tokens": [],
                    "temperature": 0.0, "avg_logprob": round(mean, 4), "compression_ratio": 1.0,
                    "no_speech_prob": 0.0})  # fmt: skip
    return out


def usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(seconds)}


def bad(message: str, param: str | None = None) -> Refused:
    return Refused(Refusal(400, "invalid_request_error", "invalid_value", message, param=param))


def require(house: House, name: str, fit: Collection[str]) -> None:
    """Raises Refused for a model that is not here, or not among those `fit` for what is asked of it."""
    if not name:
        raise bad(f"model is missing; send one of those that GET /v1/models lists, like {house.model}", "model")
    if not house.knows(name):
        message = f"there is no model {name!r} here; GET /v1/models lists {', '.join(house.names())} and aliases"
        raise Refused(Refusal(404, "invalid_request_error", "model_not_found", message, param="model"))
    if name not in fit:
        raise bad(f"model {name!r} is for something else; send one of {', '.join(fit)}", "model")


def _check_markup(text: str) -> None:
    """Read all of a text before any of it is spoken: a fault in it is a refusal then, later it would cut the answer
    off. Raises Refused."""
    reader = Reader()
    try:
        reader.push(text)
        reader.finish()
    except BadSpeech as e:
        raise bad(str(e), "input") from e


async def _feed(listener: Listener, blocks: Iterator[Tensor]) -> None:
    """A file into a room, as fast as the room takes it. Raises what decoding raises, after the last good words."""
    try:
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            await listener.push(block.numpy())
    finally:
        listener.finish()


def _copy(upload: UploadFile, path: Path) -> None:
    with path.open("wb") as out:
        shutil.copyfileobj(upload.file, out)


async def _streamed(parts: AsyncGenerator[bytes], media: str) -> Response:
    """A response of parts as they come. What goes wrong before the first is raised, and so answered by a status."""
    first = await anext(parts)

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(parts):
            yield first
            async for part in parts:
                yield part

    return StreamingResponse(body(), media_type=media)


async def _transcript_events(reading: AsyncGenerator[tuple[tuple[Word, ...], int]]) -> AsyncGenerator[bytes]:
    said, at = list[str](), 0
    async with aclosing(reading):
        try:
            async for words, at in reading:  # noqa: B007
                if words:
                    delta = " ".join(word.word for word in words)
                    yield sse({"type": "transcript.text.delta", "delta": f" {delta}" if said else delta})
                    said += [word.word for word in words]
        except VivaVoceError as e:
            if not said:
                raise
            yield _error_event(e)
            return
    yield sse({"type": "transcript.text.done", "text": " ".join(said), "usage": usage(at / RATE)})


async def _sound_events(sound: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    begun = False
    async with aclosing(sound):
        try:
            async for block in sound:
                yield sse({"type": "speech.audio.delta", "audio": base64.b64encode(block).decode()})
                begun = True
        except VivaVoceError as e:
            if not begun:
                raise
            yield _error_event(e)
            return
    yield sse({"type": "speech.audio.done", "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}})


def _error_event(error: VivaVoceError) -> bytes:
    return sse({"type": "error", "error": {"type": "invalid_request_error", "message": str(error)}})


def sse(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "vivavoce"}
