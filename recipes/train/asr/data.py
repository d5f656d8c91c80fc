"""The data of a recogniser's run, from the `[data]` table of its configuration: training batches and dev sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.recipes.data import manifest
from vivavoce.recipes.data.align import Phones
from vivavoce.recipes.data.augment import Augment, AugmentConfig
from vivavoce.recipes.data.batches import Batch, BatchConfig, Batches, Recordings, read_audio
from vivavoce.recipes.data.sources import gather, noise_pool, room_pool
from vivavoce.recipes.data.splice import Splicer
from vivavoce.recipes.data.store import build
from vivavoce.speech.text import normalize


@dataclass(frozen=True)
class Phase:
    """Until step `until`, only utterances up to `longest` seconds, in batches of `seconds`: few seconds a batch are
    many updates for little computation, and what is short is quickly aligned."""

    until: int
    longest: float
    seconds: float


@dataclass(frozen=True)
class DataConfig:
    """speech: folder of corpora, one manifest each; synthetic: folders that `vivavoce data synthesize` made; phones:
    the file that `vivavoce data align` made, or none; spliced: the share of the recordings in it that are shown with
    some of their words exchanged for others' (see splice.py). All paths are relative to the data folder. repeats: how
    often an epoch shows each corpus (`synthetic` for all made speech). dev: corpora measured while training, with at
    most dev_utterances of each. workers: processes that decode and augment. store: a folder (best on a local disk) to
    decode everything into before the first step; else recordings are decoded when they are first needed."""

    speech: str = "speech"
    phones: str = ""
    spliced: float = 0.0
    synthetic: tuple[str, ...] = ()
    repeats: Mapping[str, float] = field(default_factory=dict)
    noise_share: float = 0.02
    batches: BatchConfig = field(default_factory=BatchConfig)
    curriculum: tuple[Phase, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dev: tuple[str, ...] = ("ljspeech", "speechocean762", "librispeech_readers")
    dev_utterances: int = 60
    workers: int = 0
    store: str = ""


class TrainingData:
    """Decoded lazily and kept in memory. Raises BadManifest, BadConfig, BadAudio."""

    def __init__(self, config: DataConfig, root: Path, tokenizer: Tokenizer, *, seed: int, rank: int = 0,
                 world: int = 1) -> None:
        self.config = config
        speech = root / config.speech
        sources = gather(speech, [root / folder for folder in config.synthetic], config.repeats, config.noise_share)
        noises = noise_pool(speech)
        recordings = Recordings(sources.utterances, tokenizer, config.batches, sources.weights)
        if config.phones:
            recordings.timed = Phones(root / config.phones, speech).of
            recordings.splice = Splicer(recordings.utterances, recordings.audio, recordings.timed, config.spliced, seed)
        if config.store:
            folder = Path(config.store) / f"rank{rank}"
            recordings.stored = build(recordings.utterances, folder, max(1, config.workers)).__getitem__
        babble = [recordings.audio(i) for i in range(0, len(recordings), max(1, len(recordings) // 200))]
        recordings.augment = Augment(config.augment, noises=noises, speech=babble, seed=seed,
                                     rooms=room_pool(speech, config.augment.rooms, seed))
        self.recordings = recordings
        self.texts = [normalize(u.text) for u in recordings.utterances]
        self.phases = [(p.until, Batches(recordings, replace(config.batches, longest=p.longest, seconds=p.seconds),
                                         rank, world)) for p in config.curriculum]
        self.plan = Batches(recordings, config.batches, rank, world)
        batches = sum(map(len, self.plan.epoch(0)))
        self.summary = (f"{recordings.hours:.1f} h in {len(recordings)} utterances, {batches} batches an epoch, "
                        f"{100 * self.plan.padding():.1f} % padding; {sources.dropped}")

    def batches(self, start: int) -> Iterator[Batch]:
        """Without end, from the start-th batch of the run on."""
        began = 0
        for until, plan in self.phases:
            if start < until:
                yield from islice(plan.loader(start - began, self.config.workers), until - start)
                start = until
            began = until
        yield from self.plan.loader(start - began, self.config.workers)

    def dev(self, root: Path) -> dict[str, list[tuple[Tensor, str]]]:
        """(pcm (n,), text) pairs of each dev set."""
        return {name: [(torch.from_numpy(read_audio(u)).float() / 32768, u.text)
                       for u in manifest.load(root / self.config.speech / name, "dev")[: self.config.dev_utterances]
                       if u.text] for name in self.config.dev}
