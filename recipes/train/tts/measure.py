"""How good a voice is, on recordings of its speaker that it never heard: one table, real sound beside made sound.

An outside recogniser (pocketsphinx, with the language model of its package) hears the recording, the recording through
the vocoder alone, and the same text spoken in some numbers of solver steps. Spoken text is laid against its recording
by time warping for the distances. `python -m vivavoce.recipes.train.tts.measure VOICE` prints the table.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from vivavoce.recipes.data import manifest
from vivavoce.recipes.tables import replace
from vivavoce.speech import audio
from vivavoce.speech.asr.score import Score, score, total
from vivavoce.speech.errors import MissingDependency
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.phones import SPACE, encode
from vivavoce.speech.tts.pronounce import pronounce
from vivavoce.speech.tts.voice import MOST_LOOKAHEAD, Voice, fresh

from .align import clauses
from .data import level

CEPSTRA = 13
DRAWS = 2000  # of the bootstrap
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """mcd: mel-cepstral distortion in dB; pitch: root mean square error of log Hz where both are voiced; mel: mean
    distance of log-mel magnitudes in nats; length: seconds made over seconds recorded."""

    mcd: float
    pitch: float
    mel: float
    length: float


@cache
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as e:
        raise MissingDependency("the outside judge is pocketsphinx; pip install pocketsphinx") from e
    return Decoder(loglevel="FATAL")


def hear(pcm: Tensor) -> str:
    """What pocketsphinx hears in (n,) float32 at 24 kHz."""
    low = soxr.resample(np.pad(pcm.numpy(), (4800, 4800)), mel.RATE, 16_000)
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw((low * 32767).clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return heard.hypstr if heard else ""


def speak(voice: Voice, text: str, *, steps: int, lookahead: int = MOST_LOOKAHEAD, seed: int = 0,
          temperature: float = 0.7) -> Tensor:
    """The text as one phrase a sentence, through the streaming stage in one step: (n,) float32 at 24 kHz."""
    symbols: list[str] = []
    plans = []
    for words, end in clauses(text):
        for i, phones in enumerate(pronounce(words)):
            symbols += [*phones, end if i == len(words) - 1 else SPACE]
        if end in ".?!":
            plans.append(voice.plan(encode(symbols)).frames)
            symbols = []
    frames = torch.cat(plans)
    stage = voice.stage(steps=steps, temperature=temperature)
    everything = torch.tensor([len(frames)])
    pcm, count = stage.step(frames[None], fresh(stage, seed=seed), everything, everything > 0, lookahead)
    made: Tensor = pcm[0, : int(count)]
    return made


def compare(made: Tensor, real: Tensor) -> Figures:
    """(n,) float32 at 24 kHz each, of any lengths."""
    a, b = mel.frames(made), mel.frames(real)
    path = warp(_cepstra(a), _cepstra(b))
    a, b = a[path[:, 0]], b[path[:, 1]]
    distance = (_cepstra(a)[:, 1:] - _cepstra(b)[:, 1:]).square().sum(1).mul(2).sqrt().mean()
    voiced = (a[:, mel.VOICED] > 0.5) & (b[:, mel.VOICED] > 0.5)
    pitch = (a - b)[voiced][:, mel.PITCH].square().mean().sqrt()
    return Figures(10 / math.log(10) * float(distance), float(pitch), float((a - b)[:, : mel.MELS].abs().mean()),
                   len(made) / len(real))


def _cepstra(frames: Tensor) -> Tensor:
    """(T, 82) -> (T, CEPSTRA): an orthonormal cosine transform of the log-mel magnitudes, scaled to their units."""
    place = (torch.arange(mel.MELS) + 0.5) * math.pi / mel.MELS
    basis = torch.cos(place[:, None] * torch.arange(CEPSTRA)) / mel.MELS
    return frames[:, : mel.MELS] @ basis


def warp(a: Tensor, b: Tensor) -> Tensor:
    """The cheapest path through both, (P, 2) int64: dynamic time warping by Euclidean distance."""
    cost = torch.cdist(a.double(), b.double()).numpy()
    total_cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    total_cost[0, 0] = 0.0
    for d in range(2, len(a) + len(b) + 1):  # anti-diagonals: everything before them is known
        row = np.arange(max(1, d - len(b)), min(len(a), d - 1) + 1)
        column = d - row
        best = np.minimum(np.minimum(total_cost[row - 1, column], total_cost[row, column - 1]),
                          total_cost[row - 1, column - 1])
        total_cost[row, column] = cost[row - 1, column - 1] + best
    i, j, path = len(a), len(b), []
    while i and j:
        path.append((i - 1, j - 1))
        before = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(before, key=lambda at: total_cost[at])
    return torch.tensor(path[::-1])


@dataclass(frozen=True)
class Row:
    """One way to get the sentences' sound. steps: of the solver, 0 where it took none; cer, wer: as pocketsphinx hears
    it; low, high: of its CER less that of the recordings, sentence by sentence, 95 per cent; speed: times real time,
    not a number for recordings; the figures are means."""

    name: str
    steps: int
    cer: float
    wer: float
    low: float
    high: float
    figures: Figures
    speed: float


def rows(voice: Voice, sentences: Sequence[tuple[str, Tensor]], steps: Sequence[int],
         folder: Path | None) -> list[Row]:
    """A row for each way to get the sentences' sound, which is written to `folder`."""
    def resynthesise(_text: str, real: Tensor) -> Tensor:
        frames = mel.frames(real)
        torch.manual_seed(0)  # of the vocoder's noise
        made: Tensor = voice.vocoder(frames[None])[0, : len(frames) * mel.HOP]
        return made

    ways: list[tuple[str, int, Callable[[str, Tensor], Tensor]]] = [
        ("recorded", 0, lambda _text, real: real), ("recorded, through the vocoder", 0, resynthesise)]
    for n in steps:
        name = f"spoken, {n} step{'s' * (n > 1)}"
        ways.append((name, n, lambda text, _real, n=n: speak(voice, text, steps=n)))  # type: ignore[misc]
    found: list[Row] = []
    recorded: list[Score] = []
    for number, (name, n, make) in enumerate(ways):
        scores, figures, seconds, spent = [], [], 0.0, 0.0
        for k, (text, real) in enumerate(sentences):
            began = time.perf_counter()
            made = make(text, real)
            spent, seconds = spent + time.perf_counter() - began, seconds + len(made) / mel.RATE
            scores.append(score(text, hear(made)))
            figures.append(compare(made, real))
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / f"{number}-{k:02d}.wav", made.numpy(), mel.RATE)
        speed = seconds / max(spent, 1e-9) if number else math.nan
        recorded = recorded or scores
        found.append(_row(name, n, total(scores), apart(scores, recorded), figures, speed))
    return found


def apart(scores: Sequence[Score], recorded: Sequence[Score]) -> tuple[float, float]:
    """95 per cent interval of how much larger the character error rate is than that of the same sentences recorded,
    the sentences drawn again with replacement (Bisani and Ney 2004)."""
    wrong = np.array([[e.substituted + e.deleted + e.inserted for e in (a.characters, b.characters)]
                      for a, b in zip(scores, recorded, strict=True)])  # fmt: skip
    length = np.array([max(s.characters.total, 1) for s in scores])
    drawn = np.random.default_rng(0).integers(len(wrong), size=(DRAWS, len(wrong)))
    more = (wrong[:, 0] - wrong[:, 1])[drawn].sum(1) / length[drawn].sum(1)
    low, high = np.quantile(more, (0.025, 0.975))
    return float(low), float(high)


def _row(name: str, steps: int, errors: Score, more: tuple[float, float], figures: Sequence[Figures],
         speed: float) -> Row:
    means = (sum(values) / len(figures) for values in
             zip(*((f.mcd, f.pitch, f.mel, f.length) for f in figures), strict=True))
    return Row(name, steps, errors.characters.rate, errors.words.rate, *more, Figures(*means), speed)


def table(found: Sequence[Row]) -> list[str]:
    """Markdown."""
    lines = ["| | CER % | less recorded (95 %) | WER % | MCD dB | log F0 error | mel, nats | length | x real time |",
             "|---|" + "---|" * 8]
    for r in found:
        f, speed = r.figures, "" if math.isnan(r.speed) else f"{r.speed:.1f}"
        more = f"{100 * (r.cer - found[0].cer):+.1f} ({100 * r.low:+.1f} to {100 * r.high:+.1f})"
        heard = f"{100 * r.cer:.1f} | {more if r is not found[0] else ''} | {100 * r.wer:.1f}"
        lines.append(f"| {r.name} | {heard} | {f.mcd:.2f} | {f.pitch:.3f} | {f.mel:.3f} | {f.length:.2f} | {speed} |")
    return lines


def plot(found: Sequence[Row], path: Path) -> None:
    """Steps against quality, beside the recordings. Raises MissingDependency without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise MissingDependency("a plot needs matplotlib; pip install matplotlib") from e
    made = sorted((r for r in found if r.steps), key=lambda r: r.steps)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [r.steps for r in made]
    left.plot(steps, [100 * r.cer for r in made], marker="o", label="spoken")
    for r, style in zip([r for r in found if not r.steps], ("-", "--"), strict=False):
        left.axhline(100 * r.cer, color="gray", linestyle=style, label=r.name)
    left.set(xlabel="solver steps", ylabel="CER %, pocketsphinx", xticks=steps)
    left.legend()
    right.plot(steps, [r.figures.mel for r in made], marker="o")
    right.set(xlabel="solver steps", ylabel="mel distance, nats", xticks=steps)
    for axes in (left, right):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    figure.savefig(path, dpi=120)


def insert(document: Path, name: str, lines: Sequence[str]) -> None:
    """Put lines between a document's markers of that name. Raises BadConfig when it does not have them."""
    document.write_text(replace(document.read_text("utf-8"), name, ["", *lines, ""], str(document)), "utf-8")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m vivavoce.recipes.train.tts.measure", description=__doc__)
    parser.add_argument("voice", help="a shipped voice or a folder")
    parser.add_argument("--corpus", type=Path, default=Path("data/speech/ljspeech"), help="its dev split is measured")
    parser.add_argument("--steps", default="10,6,4,2,1", help="numbers of solver steps")
    parser.add_argument("--limit", type=int, default=0, help="only so many sentences")
    parser.add_argument("--out", type=Path, help="write the sound there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw steps against quality there")
    parser.add_argument("--into", type=Path, metavar="DOC.md", help="put the table between its markers named measure")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sentences = [(u.text, level(audio.read(u.path, mel.RATE))) for u in manifest.load(args.corpus, "dev") if u.text]
    with torch.no_grad():
        found = rows(Voice.load(args.voice), sentences[: args.limit or None], [int(s) for s in args.steps.split(",")],
                     args.out)
    print("\n".join(table(found)))
    if args.into:
        drawn = [f"\n![Steps against quality]({os.path.relpath(args.plot, args.into.parent)})"] if args.plot else []
        insert(args.into, "measure", [*table(found), *drawn])
    if args.plot:
        plot(found, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
