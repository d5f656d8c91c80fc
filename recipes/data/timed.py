"""Speech with a label for every moment: sentences that espeak-ng reads while training needs them.

CTC alone takes thousands of steps to find out that its labels have anything to do with the sound. A model that has
first been told the phone of every 40 ms finds it within some hundreds. Sentences come from the training set; batches go
to the training loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from vivavoce.recipes.data.batches import RATE, Batch, pad
from vivavoce.recipes.data.labels import FRAME, frame_classes
from vivavoce.recipes.data.voices import draw, say_timed
from vivavoce.speech.errors import BadAudio

# espeak-ng's mnemonics for English as ARPAbet; what is missing here is silence
_ESPEAK_TEXT = """
t=T n=N I=IH d=D s=S l=L m=M @=AH k=K r=R a=AE z=Z E=EH D=DH w=W V=AH aI=AY i:=IY f=F v=V h=HH p=P b=B eI=EY 0=AA u:=UW
a#=AH oU=OW 3=ER i=IY I2=IH j=Y N=NG ;=Y @2=AH g=G 3:=ER S=SH U=UH O@=AO aU=AW T=TH tS=CH A@=AA @L=L r-=R O:=AO dZ=JH
t#=T I#=IH e@=EH aa=AE O2=AO o@=AO i@3=IH i@=IH U@=UH OI=OY aI2=AY A:=AA t2=T @5=AH aI@=AY Z=ZH
"""
_ESPEAK = dict(pair.split("=") for pair in _ESPEAK_TEXT.split())


class TimedSpeech(Dataset[Batch]):
    """Batches of about `seconds` of synthetic speech. The k-th has the same sentences and voices whenever it is asked
    for; its samples differ a little, as espeak-ng carries its state from one sentence to the next.

    texts: normalised sentences, of which those up to `longest` words are read.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, seconds: float = 24.0, longest: int = 12,
                 seed: int = 0) -> None:
        self.texts = sorted({t for t in texts if 1 < len(t.split()) <= longest}, key=lambda t: (len(t), t))
        self.tokenizer, self.seconds, self.seed = tokenizer, seconds, seed
        if not self.texts:
            raise ValueError(f"no sentence of 2 to {longest} words to read aloud")

    def batches(self, start: int, workers: int = 0) -> Iterator[Batch]:
        """Without end, from the start-th on, made here or by `workers` processes, in the same order."""
        yield from DataLoader(self, batch_size=None, sampler=_From(start), num_workers=workers,
                              prefetch_factor=4 if workers else None)

    def __getitem__(self, number: int) -> Batch:
        return self.batch(number)

    def batch(self, number: int) -> Batch:
        """Sentences of like length, each in a voice of its own, with a little noise."""
        first = int(np.random.default_rng((self.seed, number)).integers(len(self.texts)))
        audio, phones, tokens = [], [], []
        left, row = self.seconds, 0
        while left > 0:
            text = self.texts[(first + row) % len(self.texts)]
            rng = np.random.default_rng((self.seed, number, row))
            row += 1
            try:
                pcm, timed = say_timed(text, draw(rng, 0.0))
            except BadAudio:  # nothing to be heard in this sentence; the next has its turn
                continue
            noise = rng.standard_normal(len(pcm), dtype=np.float32) * np.float32(10 ** rng.uniform(-4.5, -2.2))
            audio.append(pcm + noise)
            named = [(sample, _ESPEAK.get(name, "")) for sample, name in timed]
            phones.append(frame_classes(named, len(pcm) // FRAME + 2))
            tokens.append(np.array(self.tokenizer.encode(text).ids, np.int64))
            left -= len(pcm) / RATE
        return pad(audio, tokens, phones)


@dataclass(frozen=True)
class _From:
    """A sampler: start, start + 1 and so on."""

    start: int

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)
