"""Audio files in and out, and the check of arrays that callers push.

Files come from the user, in any container, rate and channel count that libsndfile reads (ffmpeg reads the rest, when
it is installed). What leaves is float32 mono in [-1, 1] at the rate asked for, whole (`read`) or in blocks of constant
memory (`blocks`); it goes to the features and the resampler stage.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import BadAudio, MissingDependency

log = logging.getLogger(__name__)

Samples = NDArray[np.float32]
FRAMES = 16384  # decoded at a time, at the file's own rate: enough to be fast, little enough to hold
UNKNOWN = 1 << 60  # frames: libsndfile counts so many and more where a stream's header does not say how many there are
LOUDEST = 8.0  # 18 dB over full scale: no recording is, an integer-valued float array always is

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}

# What ffmpeg reads and libsndfile does not: (offset, magic). Tells "install ffmpeg" from "this is not audio".
FOREIGN = (
    (4, b"ftyp"),  # mp4, m4a, mov, 3gp
    (0, b"\x1aE\xdf\xa3"),  # webm, matroska
    (0, b"\xff\xf1"),  # AAC in ADTS
    (0, b"\xff\xf9"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # wma, asf
    (0, b"#!AMR"),
    (0, b"FLV\x01"),
    (0, b"MAC "),  # Monkey's Audio
    (0, b"wvpk"),  # WavPack
    (8, b"AVI "),
)


@dataclass(frozen=True)
class Info:
    """What a file holds: its own rate in Hz, its channels, its length in seconds."""

    rate: int
    channels: int
    seconds: float


@dataclass(frozen=True)
class _Source:
    """An opened file. frames is None where the container does not say; chunks are (n, channels) float32."""

    rate: int
    channels: int
    frames: int | None
    chunks: Iterator[Samples]
    close: Callable[[], object]


def read(path: str | Path, rate: int = 16000) -> Tensor:
    """The whole file as (samples,) float32 mono in [-1, 1] at `rate` Hz; channels are averaged.

    A file that was cut off gives the samples it still has (and a log warning where the loss is known).
    Raises BadAudio when it holds no sound that can be used, MissingDependency when only ffmpeg could read it.
    """
    return torch.from_numpy(np.concatenate(list(_at_rate(path, rate))))


def blocks(path: str | Path, rate: int = 16000, seconds: float = 30.0) -> Iterator[Tensor]:
    """The samples of `read`, bit for bit, in blocks of `seconds` (the last is shorter), at constant memory.

    Raises what `read` raises, the later the later the fault lies in the file.
    """
    size = max(1, round(seconds * rate))
    with closing(_at_rate(path, rate)) as chunks:
        for block in _regroup(chunks, size):
            yield torch.from_numpy(block)


def info(path: str | Path) -> Info:
    """Rate, channels and seconds; from the header where it tells, else by decoding. Raises as `read`."""
    source = _open(path)
    with closing(source):
        frames = source.frames or sum(len(chunk) for chunk in source.chunks)
    return Info(source.rate, source.channels, frames / source.rate)


def check(pcm: object, name: str = "audio") -> Tensor:
    """An array that a caller pushes, as (samples,) float32 in [-1, 1]; it may be empty.

    Takes a tensor or an array of float16/32/64 in [-1, 1], or of int16 or int32 at full scale, one-dimensional.
    Raises BadAudio, naming `name`, for other types and shapes, NaN, infinity, and floats that hold integer values.
    """
    x = torch.as_tensor(pcm) if isinstance(pcm, Tensor | np.ndarray | list | tuple) else None
    if x is None:
        raise BadAudio(f"{name} is a {type(pcm).__name__}; give a one-dimensional float32 or int16 array")
    if x.dim() != 1:
        raise BadAudio(f"{name} has shape {tuple(x.shape)}; give one dimension (average the channels: x.mean(axis))")
    if x.dtype in (torch.int16, torch.int32):
        return x.float() / (torch.iinfo(x.dtype).max + 1)
    if not x.is_floating_point():
        raise BadAudio(f"{name} is {x.dtype}; give float32 in [-1, 1] or int16")
    _refuse_unusable(x.detach().cpu().float().numpy(), name, "")
    return x.float().clamp(-1, 1)


def write(path: str | Path, pcm: Tensor | Samples, rate: int) -> None:
    """Write (samples,) float mono as WAV (16 bit), FLAC, Ogg Vorbis, Opus or MP3, by the path's ending.

    Raises BadAudio for an unknown ending, a rate the format cannot hold, or a path that cannot be written.
    """
    with Writer(path, rate) as out:
        out.write(pcm)


class Writer:
    """A file that grows while audio arrives: `with Writer("out.wav", 16000) as out: out.write(pcm)`."""

    def __init__(self, path: str | Path, rate: int) -> None:
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise BadAudio(
                f"{path}: cannot write {path.suffix or 'a file without an ending'}; "
                f"end the name in one of {', '.join(FORMATS)}"
            )
        kind, subtype = FORMATS[path.suffix.lower()]
        try:
            self._file = soundfile.SoundFile(path, "w", rate, 1, subtype, format=kind)
        except (soundfile.LibsndfileError, OSError) as e:
            raise BadAudio(
                f"{path}: cannot write {kind} at {rate} Hz here ({_reason(e)}); "
                "check the folder, or take 48000 Hz or a .wav name"
            ) from e

    def write(self, pcm: Tensor | Samples) -> None:
        """Append (samples,) float mono; what is beyond full scale is clipped."""
        x = check(pcm, "the audio to write").cpu().numpy()
        for start in range(0, len(x), FRAMES):  # libsndfile's Vorbis encoder overflows its stack on long writes
            self._file.write(x[start : start + FRAMES])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class RateConverter:
    """Mono float32 from one rate to another, at the edge where files and devices come in (soxr, HQ).

    Any split of the input gives the same samples. An ordinary object with hidden state: inside the pipeline, where
    sessions are batched and saved, it is `resample.Resample`.
    """

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self._stream = None if in_rate == out_rate else soxr.ResampleStream(in_rate, out_rate, 1, dtype="float32")

    def push(self, x: Samples, last: bool = False) -> Samples:
        """What can be given out now, (m,); with `last` also the tail held back."""
        if self._stream is None:
            return x
        y: Samples = self._stream.resample_chunk(np.ascontiguousarray(x), last=last)
        return y


def _at_rate(path: str | Path, rate: int) -> Generator[Samples, None, None]:
    source = _open(path)
    convert = RateConverter(source.rate, rate)
    total = 0
    with closing(source):
        for chunk in source.chunks:
            _refuse_unusable(chunk, str(path), f" near {total / source.rate:.1f} s")
            total += len(chunk)
            yield np.clip(convert.push(chunk.mean(axis=1)), -1, 1)
    if total == 0:
        raise BadAudio(f"{path} holds no samples; it is empty or was cut off in its header: record or fetch it again")
    yield np.clip(convert.push(np.zeros(0, np.float32), last=True), -1, 1)


def _regroup(chunks: Iterable[Samples], size: int) -> Iterator[Samples]:
    held: list[Samples] = []
    fault = None
    try:
        for chunk in chunks:
            held.append(chunk)
            if sum(map(len, held)) >= size:
                x = np.concatenate(held)
                whole = len(x) - len(x) % size
                yield from (x[i : i + size] for i in range(0, whole, size))
                held = [x[whole:]]
    except BadAudio as e:  # what came before the fault is sound
        fault = e
    if sum(map(len, held)):
        yield np.concatenate(held)
    if fault:
        raise fault


def _refuse_unusable(x: Samples, name: str, where: str) -> None:
    peak = float(np.abs(x).max(initial=0.0))  # NaN and infinity survive the maximum
    if not np.isfinite(peak):
        raise BadAudio(f"{name} holds NaN or infinite samples{where}; export it again, or set them to 0")
    if peak > LOUDEST:
        raise BadAudio(
            f"{name} reaches {peak:.0f}{where}, float samples lie in [-1, 1]; divide by 32768 if it was int16"
        )


def _open(path: str | Path) -> _Source:
    path = Path(path)
    head = _head(path)
    source = _sndfile(path)
    if source is not None and source.frames != 0:
        return source
    if shutil.which("ffmpeg"):
        return _ffmpeg(path)
    if source is not None:
        return source  # read by libsndfile, and empty: said when its samples are asked for
    if any(head[at:].startswith(magic) for at, magic in FOREIGN):
        raise MissingDependency(
            f"{path} needs ffmpeg; install it (Debian: apt install ffmpeg; macOS: brew install "
            "ffmpeg), or convert the file to WAV, FLAC, Ogg, Opus or MP3"
        )
    raise BadAudio(f"{path} is not audio that libsndfile reads; give an audio file, or install ffmpeg if it is one")


def _head(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise BadAudio(f"{path} is a {'folder' if path.is_dir() else 'special file'}; give an audio file")
    try:
        with path.open("rb") as f:
            head = f.read(16)
    except FileNotFoundError as e:
        raise BadAudio(f"{path} does not exist; check the name") from e
    except OSError as e:
        raise BadAudio(f"{path} cannot be read ({e.strerror}); check its permissions") from e
    if not head:
        raise BadAudio(f"{path} is empty (0 bytes); record or fetch it again")
    return head


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks after every read, which breaks MP3 decoding at each block; we only ever read on."""

    def seekable(self) -> bool:
        return False


def _sndfile(path: Path) -> _Source | None:
    """The file opened by libsndfile; None where it is of another kind."""
    try:
        file = _Forward(path)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: named .raw, whose samples could be anything
        return None
    frames: int | None = file.frames if file.frames < UNKNOWN else None
    if file.format == "MP3" and not (begin := _mp3_begin(path)).counted:
        file.close()  # libsndfile guesses the length from the first frames, and would stop there
        file, frames = _Forward(_piped(path, begin.at)), None
    return _Source(file.samplerate, file.channels, frames, _sndfile_chunks(file, path, frames), file.close)


def _sndfile_chunks(file: Any, path: Path, frames: int | None) -> Iterator[Samples]:
    done = 0
    try:
        while len(x := file.read(FRAMES, dtype="float32", always_2d=True)):
            done += len(x)
            yield x
    except soundfile.LibsndfileError as e:
        fault = _reason(e)
    else:
        if frames and done < frames - file.samplerate // 10:
            _warn(path, f"it ends at {done / file.samplerate:.1f} of {frames / file.samplerate:.1f} s")
        return
    if shutil.which("ffmpeg"):  # gets further into a damaged file
        with closing(_ffmpeg(path)) as rest:
            yield from _skip(rest.chunks, done)
    elif done == 0:
        raise BadAudio(f"{path} is damaged ({fault}); fetch it again, or install ffmpeg to save what is left of it")
    _warn(path, fault)


class _Begin(NamedTuple):
    """Where an MP3's first frame begins, in bytes, and whether that frame says how many there are."""

    at: int
    counted: bool


def _mp3_begin(path: Path) -> _Begin:
    with path.open("rb") as f:
        tag = f.read(10)
        size = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))  # 7 bits a byte
        at = 10 + size if tag[:3] == b"ID3" else 0
        f.seek(at)
        head = f.read(256)
    return _Begin(at, any(name in head for name in (b"Xing", b"Info", b"VBRI")))


def _piped(path: Path, begin: int) -> int:
    """A descriptor that gives the file's bytes from `begin` on, and of which nobody can tell how many will come."""
    reader, writer = os.pipe()

    def feed() -> None:
        # the pipe is broken by a reader who has heard enough
        with path.open("rb") as f, suppress(BrokenPipeError), open(writer, "wb") as pipe:
            f.seek(begin)
            shutil.copyfileobj(f, pipe)

    Thread(target=feed, daemon=True).start()
    return reader


def _warn(path: Path, why: str) -> None:
    log.warning("%s is damaged or cut off (%s): only what could be decoded was read", path, why)


def _skip(chunks: Iterator[Samples], frames: int) -> Iterator[Samples]:
    for chunk in chunks:
        yield chunk[frames:]
        frames = max(0, frames - len(chunk))


def _ffmpeg(path: Path) -> _Source:
    """The first audio stream by ffmpeg. Only local files: a playlist must not make it fetch from the network."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe nobody drains would block a talkative ffmpeg
    process = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}",
         "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
    )  # fmt: skip
    pipe = process.stdout
    assert pipe is not None

    def close() -> None:
        process.kill()  # the reader may stop early
        pipe.close()
        process.wait()
        errors.close()

    head = pipe.read(24)  # AU: magic, offset of the samples, bytes, encoding, rate, channels; big-endian
    if len(head) < 24:
        process.wait()
        why = (_lines(errors) or ["no audio in it"])[0]
        close()
        raise BadAudio(
            f"{path} is not audio that can be read (ffmpeg: {why.removeprefix(f'file:{path}: ')}); give an audio file"
        )
    _, offset, _, _, rate, channels = struct.unpack(">4sIIIII", head)
    pipe.read(offset - 24)
    return _Source(rate, channels, _ffprobe_frames(path, rate), _float_frames(pipe, channels, path, errors), close)


def _float_frames(pipe: IO[bytes], channels: int, path: Path, errors: IO[bytes]) -> Iterator[Samples]:
    frame = 4 * channels
    while data := pipe.read(FRAMES * frame):
        data = data[: len(data) // frame * frame]
        yield np.frombuffer(data, ">f4").astype(np.float32).reshape(-1, channels)
    if said := _lines(errors):
        _warn(path, f"ffmpeg: {said[0]}")


def _lines(errors: IO[bytes]) -> list[str]:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip().splitlines()


def _ffprobe_frames(path: Path, rate: int) -> int | None:
    """Frames by the container's duration; None where it has none (a browser's recordings) or ffprobe is missing."""
    if shutil.which("ffprobe") is None:
        return None
    done = subprocess.run(
        ["ffprobe", "-v", "quiet", "-protocol_whitelist", "file", "-show_entries", "format=duration", "-of", "json",
         f"file:{path}"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    try:
        return round(Fraction(json.loads(done.stdout)["format"]["duration"]) * rate) or None
    except (ValueError, KeyError):
        return None


def _reason(e: BaseException) -> str:
    """libsndfile's own words without the file's name, which the message has already."""
    return str(getattr(e, "error_string", "") or getattr(e, "strerror", "") or e).rstrip(".")
