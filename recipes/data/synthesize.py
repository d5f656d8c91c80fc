"""Text into synthetic speech: sentences of the text corpora, read by espeak-ng's and flite's voices, as a corpus.

`main` writes 16 kHz FLAC files in numbered shards and one manifest; a stopped run goes on where it ended, and the seed
decides every sentence and voice. Dev sentences of `--speech-dir` never enter. Training reads the manifest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from vivavoce.recipes.data import corpora, manifest, voices
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.speech.errors import BadAudio, BadConfig
from vivavoce.streaming.errors import VivaVoceError

SHARD = 500  # utterances; one shard is the unit of work, of a process and of resuming


@dataclass(frozen=True)
class Plan:
    """What decides the output, saved beside it; a run resumes only under the same plan."""

    seed: int
    flite_share: float
    longest: int
    text: str
    excluded: int  # dev runs and short sentences kept out

    def check(self, out: Path) -> None:
        """Save the plan, or refuse a folder that holds another one's shards (BadConfig)."""
        file = out / "plan.json"
        mine = json.dumps(asdict(self), indent=1) + "\n"
        if file.exists() and file.read_text() != mine:
            raise BadConfig(f"{out}: holds shards made with other settings ({file}); give an empty folder")
        file.write_text(mine)


@dataclass(frozen=True)
class Shard:
    """One shard's number, its sentences (text, licence, corpus) and where it goes."""

    number: int
    sentences: tuple[tuple[str, str, str], ...]
    folder: Path
    plan: Plan


def _speak(shard: Shard) -> list[Utterance]:
    """Write a shard's audio and then its manifest, which marks it as done. Runs alone in its process.

    espeak-ng's noise and timing depend on all it has said before, so only a fresh process repeats a shard exactly.
    """
    rng = np.random.default_rng((shard.plan.seed, shard.number))
    shard.folder.mkdir(parents=True, exist_ok=True)
    made: list[Utterance] = []
    for i, (text, licence, corpus) in enumerate(shard.sentences):
        voice = voices.draw(rng, shard.plan.flite_share)
        try:
            audio = voices.say(text, voice)
        except BadAudio:
            continue  # a sentence that a voice cannot say is no loss
        path = shard.folder / f"{i:03d}.flac"
        soundfile.write(path, audio, voices.RATE, subtype="PCM_16")
        seconds = len(audio) / voices.RATE
        made.append(
            Utterance(path, seconds, voices.RATE, voice.speaker, "train", text, licence, f"synthetic: {corpus}")
        )
    manifest.write(shard.folder / manifest.NAME, made)
    return made


def _run(shard: Shard) -> list[Utterance]:
    done = (shard.folder / manifest.NAME).exists()
    return manifest.load(shard.folder) if done else _speak(shard)


def _shards(texts: Iterator[tuple[str, corpora.Corpus]], out: Path, plan: Plan) -> Iterator[Shard]:
    for number in itertools.count():
        batch = tuple((text, c.licence, c.name) for text, c in itertools.islice(texts, SHARD))
        yield Shard(number, batch, out / "shards" / f"{number:05d}", plan)


def synthesize(texts: Iterator[tuple[str, corpora.Corpus]], out: Path, plan: Plan, hours: float, jobs: int) -> float:
    """Make shards, in order, until their sum reaches `hours`; returns the hours made.

    `out/manifest.tsv` grows with each finished shard, so training may begin before the end.

    Raises:
        BadConfig: `out` holds another plan's shards. MissingDependency: an engine is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan.check(out)
    everything: list[Utterance] = []
    total = 0.0
    shards = _shards(texts, out, plan)
    # spawn, not fork: the parent may hold threads; maxtasksperchild=1: see _speak
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        while total < hours * 3600:
            for made in pool.imap(_run, list(itertools.islice(shards, jobs)), chunksize=1):
                if total >= hours * 3600:
                    break
                everything += made
                total += sum(u.seconds for u in made)
                manifest.write(out / manifest.NAME, everything)
                print(f"{total / 3600:.2f} of {hours:g} h, {len(everything)} utterances", file=sys.stderr, flush=True)
    return total / 3600


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("vivavoce data synthesize", description="Synthetic training speech from text corpora.")
    p.add_argument("--text-dir", type=Path, required=True, help="folder of *.txt.xz, *.tsv.xz, *.jsonl.xz")
    p.add_argument("--speech-dir", type=Path, help="folder of corpora whose dev sentences must not be used")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--hours", type=float, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--jobs", type=int, default=1, help="processes")
    p.add_argument("--flite-share", type=float, default=0.3, help="share of utterances read by flite (0..1)")
    p.add_argument("--longest", type=int, default=25, help="words in a sentence")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 done, 1 failed (said on stderr), 2 bad usage."""
    args = parser().parse_args(argv)
    try:
        dev = DevSentences.from_manifests(args.speech_dir) if args.speech_dir else DevSentences.from_texts(())
        texts = corpora.draw(corpora.read_all(args.text_dir, dev, args.longest, args.seed), args.seed)
        plan = Plan(args.seed, args.flite_share, args.longest, args.text_dir.name, len(dev.runs) + len(dev.short))
        hours = synthesize(texts, args.out, plan, args.hours, args.jobs)
    except VivaVoceError as e:
        print(f"vivavoce data: {e}", file=sys.stderr)
        return 1
    print(f"{hours:.2f} h in {args.out / manifest.NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
