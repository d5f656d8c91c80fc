"""Batches for training: which utterances go together (`Batches`), and what a batch holds (`Recordings`, `Batch`).

Utterances come from manifests. They are bucketed by seconds and by text length, each batch filled up to a budget of
padded seconds. Augmentation changes their lengths, so neighbouring batches are made a few at a time and share their
utterances out anew. The order depends only on (seed, epoch), so a run resumes from any batch and ranks share one plan.
What leaves goes to the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vivavoce.recipes.data.augment import Audio, Augment, Stored
from vivavoce.recipes.data.labels import FRAME, Timed, frame_classes, stack
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.recipes.data.splice import Spliced
from vivavoce.speech.asr.phones import LABELS_A_FRAME
from vivavoce.speech.errors import BadAudio, BadConfig
from vivavoce.speech.text import normalize

Ids = npt.NDArray[np.int64]
Group = list[list[int]]  # the utterances of batches that are made together
Splice = Callable[[int, int], Spliced | None]  # of an utterance's number and an epoch
RATE = 16000
TOGETHER = 4  # batches that are made at a time
FRAME_SECONDS = 0.08  # of the encoder: CTC needs one a token, and one more between two equal tokens


class Batch(NamedTuple):
    """pcm (B, N) float32 at 16 kHz, zero-padded; samples (B,); tokens (B, U), zero-padded; token_lengths (B,); phones
    (B, 2 T), two for each encoder frame, -1 where unknown (see labels.py), or None."""

    pcm: Tensor
    samples: Tensor
    tokens: Tensor
    token_lengths: Tensor
    phones: Tensor | None = None

    @property
    def seconds(self) -> float:
        """Of audio, padding not counted."""
        return float(self.samples.sum()) / RATE

    @property
    def padding(self) -> float:
        """Share of the samples that are padding."""
        return 1 - float(self.samples.sum()) / max(self.pcm.numel(), 1)

    def to(self, device: torch.device | str) -> Self:
        def there(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return type(self)(there(self.pcm), there(self.samples), there(self.tokens), there(self.token_lengths),
                          None if self.phones is None else there(self.phones))


def read_audio(utterance: Utterance) -> Stored:
    """Decode to (samples,) int16 at 16 kHz, channels averaged. Raises BadAudio naming the file."""
    try:
        audio, rate = soundfile.read(utterance.path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as e:
        raise BadAudio(f"{utterance.path}: cannot be decoded ({e}); fix its manifest row or remove it") from e
    mono = audio.mean(1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE)
    return np.asarray(np.clip(np.round(mono * 32767), -32768, 32767), np.int16)


@dataclass(frozen=True)
class BatchConfig:
    """seconds: padded audio a batch holds at most. buckets: classes of length; each is cut in text_buckets by tokens.

    longest, shortest: utterances outside are left out (seconds).
    """

    seconds: float = 120.0
    buckets: int = 64
    text_buckets: int = 2
    shortest: float = 0.2
    longest: float = 20.0
    seed: int = 0


class Recordings(Dataset[list[Batch]]):
    """Utterances with their tokens; indexed by (epoch, group), it decodes, augments and pads a group's batches, the one
    of the shortest utterances first.

    Those that are too short, too long, or have more tokens than the encoder has frames are left out and counted in
    `left_out`. cache keeps decoded int16 audio in memory (115 MB an hour); what was `stored` (see store.py) is
    read instead where it is set. timed gives the phones of an utterance, splice another made of its words and others'
    (see splice.py).
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        config: BatchConfig,
        weights: Sequence[float] | None = None,
        augment: Augment | None = None,
        cache: bool = True,
    ) -> None:
        if weights is not None and len(weights) != len(utterances):
            raise BadConfig(f"{len(weights)} weights for {len(utterances)} utterances; give one each")
        given = list(weights) if weights is not None else [1.0] * len(utterances)
        coded = tokenizer.encode_batch([normalize(u.text) for u in utterances])
        tokens = [np.array(e.ids, np.int64) for e in coded]
        keep = [i for i, u in enumerate(utterances) if _fits(u.seconds, tokens[i], config)]
        self.utterances = [utterances[i] for i in keep]
        self.tokens = [tokens[i] for i in keep]
        self.weights = np.array([given[i] for i in keep])
        self.left_out = len(utterances) - len(keep)
        self.augment = augment
        self.stored: Callable[[int], Stored] | None = None
        self.timed: Callable[[Utterance], Timed | None] | None = None
        self.splice: Splice | None = None
        self._tokenizer = tokenizer
        self._cache: dict[int, Stored] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def hours(self) -> float:
        return sum(u.seconds for u in self.utterances) / 3600

    def audio(self, index: int) -> Stored:
        """Decoded (samples,) int16 at 16 kHz."""
        if self.stored is not None:
            return self.stored(index)
        if self._cache is None:
            return read_audio(self.utterances[index])
        if index not in self._cache:
            self._cache[index] = read_audio(self.utterances[index])
        return self._cache[index]

    def __getitem__(self, request: tuple[int, Group]) -> list[Batch]:
        epoch, group = request
        made = [self._one(i, epoch) for indices in group for i in indices]
        order = np.argsort([len(audio) for audio, _, _ in made], kind="stable")
        return [self._padded([made[i] for i in part]) for part in np.array_split(order, len(group))]

    def _padded(self, made: Sequence[tuple[Audio, Ids, Ids]]) -> Batch:
        audio, tokens, phones = zip(*made, strict=True)
        return pad(audio, tokens, None if self.timed is None else phones)

    def _one(self, index: int, epoch: int) -> tuple[Audio, Ids, Ids]:
        """Waveform, tokens and phone labels of one utterance, augmented."""
        audio, tokens, timed = self._spliced(index, epoch) or self._recorded(index)
        changed = audio if self.augment is None else self.augment(audio, index, epoch)
        frames = len(changed) // FRAME + 2
        if timed is None:
            return changed, tokens, np.full(LABELS_A_FRAME * frames, -1, np.int64)
        return changed, tokens, frame_classes(timed, frames, len(changed) / max(len(audio), 1))

    def _recorded(self, index: int) -> tuple[Audio, Ids, Timed | None]:
        audio, tokens = self.audio(index).astype(np.float32) / np.float32(32768), self.tokens[index]
        if not tokens.size:
            return audio, tokens, [(0, "")]
        return audio, tokens, self.timed(self.utterances[index]) if self.timed is not None else None

    def _spliced(self, index: int, epoch: int) -> tuple[Audio, Ids, Timed | None] | None:
        """Of words of several recordings; None where this one stays as it is."""
        made = self.splice(index, epoch) if self.splice is not None else None
        if made is None:
            return None
        tokens = np.array(self._tokenizer.encode(made.text).ids, np.int64)
        return (made.audio, tokens, made.phones) if _has_frames(len(made.audio) / RATE, tokens) else None


def _fits(seconds: float, tokens: Ids, config: BatchConfig) -> bool:
    return config.shortest <= seconds <= config.longest and _has_frames(seconds, tokens)


def _has_frames(seconds: float, tokens: Ids) -> bool:
    """Whether CTC finds room for the tokens."""
    repeats = int((tokens[1:] == tokens[:-1]).sum())
    faster = 1.1  # speed augmentation may shorten it
    return len(tokens) + repeats <= seconds / faster / FRAME_SECONDS


def pad(audio: Sequence[Audio], tokens: Sequence[npt.NDArray[np.int64]],
        phones: Sequence[npt.NDArray[np.int64]] | None = None) -> Batch:
    """Waveforms, token rows and label rows of any lengths as one padded batch."""
    samples = torch.tensor([len(a) for a in audio])
    lengths = torch.tensor([len(t) for t in tokens])
    pcm = torch.zeros(len(audio), int(samples.max()))
    padded = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.int64)
    for row, (a, t) in enumerate(zip(audio, tokens, strict=True)):
        pcm[row, : len(a)] = torch.from_numpy(a)
        padded[row, : len(t)] = torch.from_numpy(t)
    return Batch(pcm, samples, padded, lengths, None if phones is None else torch.from_numpy(stack(phones)))


class Batches:
    """The plan of every epoch: lists of indices, the same on all ranks, of which each rank takes every world-th."""

    def __init__(self, recordings: Recordings, config: BatchConfig, rank: int = 0, world: int = 1) -> None:
        self.recordings, self.config, self.rank, self.world = recordings, config, rank, world
        self.seconds = np.array([u.seconds for u in recordings.utterances])
        if not (np.asarray(recordings.weights)[self.seconds <= config.longest] > 0).any():
            raise BadConfig(f"no utterance of up to {config.longest:g} s is left to train on; check the manifests, the "
                            "repeats and the length limits")  # fmt: skip
        self.lengths = np.array([len(t) for t in recordings.tokens])
        self._bucket = _two_dimensional(self.seconds, self.lengths, config)

    def epoch(self, epoch: int) -> list[Group]:
        """This rank's batches of an epoch, in groups. A weight of 2.5 shows an utterance two or three times."""
        rng = np.random.default_rng((self.config.seed, epoch))
        weights = np.where(self.seconds <= self.config.longest, self.recordings.weights, 0.0)
        repeats = np.floor(weights + rng.random(len(weights))).astype(np.int64)
        chosen = rng.permutation(np.repeat(np.arange(len(weights)), repeats))
        chosen = chosen[np.argsort(self._bucket[chosen], kind="stable")]  # stable: still shuffled inside a bucket
        everyone = list(self._cut(chosen))
        short = -len(everyone) % self.world  # every rank takes as many steps, or the others would wait for ever
        everyone += [everyone[i % len(everyone)] for i in range(short)]
        mine = everyone[self.rank :: self.world]
        groups = [mine[at : at + TOGETHER] for at in range(0, len(mine), TOGETHER)]
        return [groups[i] for i in rng.permutation(len(groups))]

    def _cut(self, ordered: npt.NDArray[np.int64]) -> Iterator[list[int]]:
        batch: list[int] = []
        longest = 0.0
        for i in ordered.tolist():
            after = max(longest, float(self.seconds[i]))
            if batch and after * (len(batch) + 1) > self.config.seconds:
                yield batch
                batch, after = [], float(self.seconds[i])
            batch.append(i)
            longest = after
        if batch:
            yield batch

    def padding(self, epoch: int = 0) -> float:
        """Share of an epoch's samples that are padding, before augmentation."""
        plan = list(chain.from_iterable(self.epoch(epoch)))
        padded = sum(len(b) * self.seconds[b].max() for b in plan)
        return 1 - sum(float(self.seconds[b].sum()) for b in plan) / float(padded)

    def requests(self, epoch: int = 0, group: int = 0) -> Iterator[tuple[int, Group]]:
        """What `Recordings` is indexed by, without end, from group `group` of epoch `epoch` on."""
        while True:
            for batches in self.epoch(epoch)[group:]:
                yield epoch, batches
            epoch, group = epoch + 1, 0

    def at_step(self, step: int) -> tuple[int, int, int]:
        """(epoch, group, batch in it) of the step-th batch since the beginning: where to resume."""
        epoch = 0
        while True:
            for group, batches in enumerate(self.epoch(epoch)):
                if step < len(batches):
                    return epoch, group, step
                step -= len(batches)
            epoch += 1

    def loader(self, step: int = 0, workers: int = 0) -> Iterator[Batch]:
        """Batches without end from the step-th on, made here or by `workers` processes, in the same order."""
        epoch, group, batch = self.at_step(step)
        groups = DataLoader(
            self.recordings,
            batch_size=None,
            sampler=_Requests(self, epoch, group),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=2 if workers else None,
            persistent_workers=workers > 0,
        )
        return islice(chain.from_iterable(groups), batch, None)


@dataclass(frozen=True)
class _Requests:
    """A sampler, as DataLoader wants it: something to iterate over again and again."""

    batches: Batches
    epoch: int
    group: int

    def __iter__(self) -> Iterator[tuple[int, Group]]:
        return self.batches.requests(self.epoch, self.group)


def _two_dimensional(
    seconds: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], config: BatchConfig
) -> npt.NDArray[np.int64]:
    """Each utterance's bucket: by seconds (equally filled), then within it by tokens (arXiv 2503.05931)."""
    outer = _ranks(seconds) * config.buckets // len(seconds)
    bucket = np.zeros(len(seconds), np.int64)
    for number in range(config.buckets):
        members = np.flatnonzero(outer == number)
        inner = _ranks(lengths[members]) * config.text_buckets // max(len(members), 1)
        bucket[members] = number * config.text_buckets + inner
    return bucket


def _ranks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
