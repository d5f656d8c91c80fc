"""What to train on, gathered from a folder of corpora: human speech, noise with empty text, and what augments them.

Manifests come from one folder a corpus; dev sentences are taken out here. What leaves goes to `batches` and `augment`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vivavoce.recipes.data import manifest, rooms
from vivavoce.recipes.data.augment import Audio, Stored
from vivavoce.recipes.data.batches import read_audio
from vivavoce.recipes.data.exclude import DevSentences, Dropped, without_dev
from vivavoce.recipes.data.manifest import Utterance
from vivavoce.speech.text import normalize


@dataclass(frozen=True)
class Sources:
    """Training utterances and one repeat factor each; noises (empty text) are among them."""

    utterances: tuple[Utterance, ...]
    weights: tuple[float, ...]
    dropped: Dropped


def human(speech_dir: str | os.PathLike[str]) -> tuple[list[Utterance], Dropped]:
    """Every training row with a transcript that no dev transcript shares, and what leaving the others out cost.

    Rows whose text normalises to nothing are left out: somebody speaks there, nobody knows what. Raises BadManifest.
    """
    spoken = [u for u in manifest.load_all(speech_dir, "train") if normalize(u.text)]
    return without_dev(spoken, DevSentences.from_manifests(speech_dir))


def noises(speech_dir: str | os.PathLike[str], shortest: float = 1.0) -> list[Utterance]:
    """Training rows in which nobody speaks. Room responses are shorter than any noise, or named `rir_...`."""
    rows = manifest.load_all(speech_dir, "train")
    return [u for u in rows if u.is_noise and u.seconds >= shortest and not u.is_response]


def recorded_rooms(speech_dir: str | os.PathLike[str]) -> list[Audio]:
    """Recorded responses, from their direct sound on and at unit height; files named `rir_...` in noise manifests."""
    made: list[Audio] = []
    for u in manifest.load_all(speech_dir, "train"):
        if u.is_response:
            response = read_audio(u).astype(np.float32)
            direct = int(np.abs(response).argmax())
            made.append(response[direct : direct + rooms.RATE // 2] / max(float(np.abs(response).max()), 1.0))
    return made


def gather(
    speech_dir: str | os.PathLike[str],
    synthetic: Sequence[str | os.PathLike[str]] = (),
    repeats: Mapping[str, float] | None = None,
    noise_share: float = 0.02,
) -> Sources:
    """Human recordings, synthetic manifests and noise, with repeat factors.

    repeats: factor by corpus, that is the folder's name (`synthetic` for all of those); 1 where it is silent.
    noise_share: of an epoch's utterances, those with empty text. Raises BadManifest.
    """
    factors = dict(repeats or {})
    spoken, dropped = human(speech_dir)
    # made without the dev sentences of its time, which may not be those of now: folds have others
    made, _ = without_dev((u for folder in synthetic for u in manifest.load(folder, "train")),
                          DevSentences.from_manifests(speech_dir))
    weights = [factors.get(u.corpus, 1.0) for u in spoken] + [factors.get("synthetic", 1.0)] * len(made)
    quiet = [u for u in noises(speech_dir) if u.seconds <= 20]
    each = noise_share * sum(weights) / max(len(quiet), 1)
    return Sources((*spoken, *made, *quiet), (*weights, *[each] * len(quiet)), dropped)


def noise_pool(speech_dir: str | os.PathLike[str]) -> list[Stored]:
    """The decoded noises, int16 at 16 kHz, for `Augment`."""
    return [read_audio(u) for u in noises(speech_dir)]


def room_pool(speech_dir: str | os.PathLike[str], count: int = 50, seed: int = 0) -> list[Audio]:
    """`count` simulated rooms and every recorded one, for `Augment`."""
    return [*rooms.simulate(count, seed), *recorded_rooms(speech_dir)]
