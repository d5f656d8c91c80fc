"""Whether a listener could tell where chunks end: pitch, loudness and samples at the seams, and anywhere else.

Sentences of sentences.tsv are spoken in chunks of one size, so that every so many frames there is a seam (streamed
sound is that sound, to 1e-4: other tests say so). What changes over a seam is compared with what changes between any
other two frames; ratios of the means with intervals go to stdout:
`python -P -m vivavoce.recipes.train.tts.seams VOICE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vivavoce.recipes.options import count
from vivavoce.recipes.speak import VOICE
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.voice import Voice

from .judge import sentences
from .measure import speak

DRAWS = 2000  # of the bootstrap
QUIET = 1e-3  # root mean square under which loudness is not told apart
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """Mean change at seams and elsewhere, and the ratio of the two with its 95 per cent interval."""

    what: str
    seams: float
    elsewhere: float
    ratio: float
    low: float
    high: float


def changes(pcm: Tensor) -> dict[str, Tensor]:
    """By how much things change from each frame to the next, (T - 1,): ΔF0 in Hz, not a number where either has no
    pitch; ΔE in dB; and the jump between the last sample of one and the first of the other, over the loudness there."""
    whole = pcm[: len(pcm) // mel.HOP * mel.HOP]
    hertz, voiced = mel.pitch(whole)
    rms = whole.view(-1, mel.HOP).square().mean(1).sqrt().clamp(min=QUIET)
    first = torch.arange(1, len(rms)) * mel.HOP
    both = voiced[1:] & voiced[:-1]
    return {"ΔF0, Hz": torch.where(both, hertz.diff().abs(), torch.nan), "ΔE, dB": 20 * rms.log10().diff().abs(),
            "sample jump": (whole[first] - whole[first - 1]).abs() / (rms[1:] + rms[:-1]) * 2}


def compare(pieces: Sequence[Tensor], every: int) -> list[Row]:
    """pieces: sounds (n,) at 24 kHz, each with a seam after every `every` frames."""
    at: dict[str, list[Tensor]] = {}
    others: dict[str, list[Tensor]] = {}
    for pcm in pieces:
        for what, values in changes(pcm).items():
            seam = torch.arange(1, len(values) + 1) % every == 0
            at.setdefault(what, []).append(values[seam])
            others.setdefault(what, []).append(values[~seam])
    return [_row(what, _known(at[what]), _known(others[what])) for what in at]


def _known(parts: Sequence[Tensor]) -> Floats:
    values: Floats = torch.cat(list(parts)).double().numpy()
    known: Floats = values[~np.isnan(values)]
    return known


def _row(what: str, at: Floats, others: Floats) -> Row:
    draw = np.random.default_rng(0)
    ratios = np.sort([draw.choice(at, len(at)).mean() / draw.choice(others, len(others)).mean() for _ in range(DRAWS)])
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Row(what, float(at.mean()), float(others.mean()), float(at.mean() / others.mean()), float(low), float(high))


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    lines = ["| | at seams | elsewhere | ratio (95 %) |", "|---|---|---|---|"]
    return lines + [f"| {r.what} | {r.seams:.3f} | {r.elsewhere:.3f} | {r.ratio:.2f} ({r.low:.2f}–{r.high:.2f}) |"
                    for r in rows]


def spoken(voice: Voice, texts: Sequence[str], *, chunks: int, steps: int) -> list[Tensor]:
    """The texts in chunks of so many of the flow's smallest."""
    return [speak(voice, text, steps=steps, lookahead=chunks - 1) for text in texts]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("seams", description="Whether chunks can be heard.")
    parser.add_argument("voice", nargs="?", default=VOICE, help="(default: %(default)s)")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="sentences a set (default: %(default)s)")
    parser.add_argument("--chunks", type=count, default=1, metavar="N", help="a step, of the smallest (default: 1)")
    parser.add_argument("--steps", type=count, default=1, metavar="N", help="of the solver (default: %(default)s)")
    parser.add_argument("--threads", type=count, default=1, metavar="N")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    voice = Voice.load(args.voice)
    texts = [s.text for s in sentences(args.limit) if s.set in ("everyday", "novels")]
    every = voice.config.flow.chunk * args.chunks
    pieces = spoken(voice, texts, chunks=args.chunks, steps=args.steps)
    seconds = sum(map(len, pieces)) / mel.RATE
    print(f"{len(texts)} sentences, {seconds:.0f} s, a seam every {1000 * every * mel.HOP // mel.RATE} ms\n")
    print("\n".join(table(compare(pieces, every))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
