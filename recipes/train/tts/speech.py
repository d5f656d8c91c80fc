"""Training of what is said: the acoustic model and the flow together, on aligned recordings.

The acoustic model learns durations and mean frames; the flow learns to get from noise to the real frames, told those,
under masks that are drawn anew for every batch, so that one model serves any chunk size. Recordings come from `data`,
their phones from `align`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vivavoce.speech.tts import mel
from vivavoce.speech.tts.acoustic import Acoustic
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig
from vivavoce.speech.tts.flow import Flow, FlowStage, sees
from vivavoce.speech.tts.phones import IDS, SEPARATORS, SPACE, VOWELS
from vivavoce.streaming.buffers import count_mask

from .align import Aligned
from .data import Recording
from .schedule import OptimizerConfig

RARE = 10  # a symbol heard less often has learnt nothing
ALIKE = ((".", "?", "!"), (",", ";"), *((f"{v}0", f"{v}1", f"{v}2") for v in dict.fromkeys(x[:-1] for x in VOWELS)))
MARKS = frozenset(IDS[s] for s in SEPARATORS if s != SPACE)
SPACES = frozenset((IDS[SPACE],))
WHOLE = 10_000  # a lookahead that makes one chunk of anything
Told = tuple[Recording, Aligned | None]  # which sound is where, None where that could not be found


@dataclass(frozen=True)
class SpeechConfig:
    """frames: of a batch, about; longest: frames of one utterance, longer ones are cut between words; lookaheads:
    drawn for the flow's mask, in its chunks; unguided: share of utterances whose flow is told nothing; flow_from: the
    step at which the flow joins, as it has little to learn before the means are good; others_until: the step from which
    on nobody is heard but the voices themselves."""

    frames: int = 900
    longest: int = 400
    lookaheads: tuple[int, ...] = (0, 1, 3, 9, WHOLE)
    unguided: float = 0.1
    flow_from: int = 0
    others_until: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


class Example(NamedTuple):
    """phones, durations: (P,); frames: (T, 82), the sum of durations of them."""

    phones: Tensor
    durations: Tensor
    frames: Tensor
    speaker: int


class Batch(NamedTuple):
    """Examples side by side, padded with zeros; counts: (B,) phones of each."""

    phones: Tensor
    durations: Tensor
    counts: Tensor
    frames: Tensor
    speaker: Tensor


class SpeechModel(nn.Module):
    """What trains together; a voice's parts of the same names."""

    def __init__(self, acoustic: AcousticConfig, flow: FlowConfig, symbols: int, speakers: int) -> None:
        super().__init__()
        self.acoustic = Acoustic(acoustic, symbols, speakers)
        self.flow = Flow(flow, self.acoustic.width)


class SpeechPart:
    """Acoustic model and flow in training; a `Part`. others: heard until `others_until`; speakers: everybody's names,
    in the order of the model's ids."""

    def __init__(self, model: SpeechModel, own: Sequence[Told], others: Sequence[Told], speakers: Sequence[str],
                 speaker: str, config: SpeechConfig, device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed
        pairs = [(r, example(r, a, speakers)) for r, a in own if a]
        self.train = [e for r, e in pairs if r.split == "train"]
        self.everybody = self.train + [example(r, a, speakers) for r, a in others if a and r.split == "train"]
        self.dev = [e for r, e in pairs if r.split == "dev" and r.speaker == speaker]
        frames = torch.cat([e.frames for r, e in pairs if r.split == "train" and r.speaker == speaker])
        model.acoustic.mean.copy_(frames.mean(0))
        model.acoustic.deviation.copy_(frames.std(0).clamp(min=0.05))
        self.model: nn.Module = model.to(device)
        weight = torch.ones(mel.WIDTH)
        weight[mel.PITCH], weight[mel.VOICED] = 4.0, 2.0
        self.weight = weight.to(device)

    def batch(self, step: int) -> Batch:
        draw = random.Random(self.seed * 1_000_003 + step)
        chosen: list[Example] = []
        heard = self.everybody if step < self.config.others_until else self.train
        lengths = [len(e.frames) for e in heard]
        while sum(len(e.frames) for e in chosen) < self.config.frames:
            whole = draw.choices(heard, lengths)[0]
            chosen.append(shorten(whole, self.config.longest, draw))
        return collate(chosen, self.device)

    def loss(self, step: int) -> dict[str, Tensor]:
        model = self.model
        assert isinstance(model, SpeechModel)
        batch = self.batch(step)
        drawn = model.acoustic(batch.phones, batch.counts, batch.speaker, batch.durations)
        total = batch.durations.sum(1)
        inside = count_mask(total, batch.frames.shape[1])[..., None]
        real = model.acoustic.normalise(batch.frames) * inside
        said = count_mask(batch.counts, batch.phones.shape[1])
        wrong = (drawn.log_durations - batch.durations.log1p()).square()[said].mean()
        losses = {"duration": 0.3 * wrong, "mean": self._square(drawn.frames[..., : mel.WIDTH] - real, inside).mean()}
        if step >= self.config.flow_from:
            losses["flow"] = self._flow_loss(model.flow, drawn.frames, real, total, inside, step)
        return losses

    def _flow_loss(self, flow: Flow, told: Tensor, real: Tensor, total: Tensor, inside: Tensor, step: int) -> Tensor:
        draw = random.Random(step)
        told = torch.cat((told[..., : mel.WIDTH].detach(), told[..., mel.WIDTH :]), dim=-1)
        told = flow.ahead(told, total)
        free = (torch.rand(len(real), device=real.device) < self.config.unguided)[:, None, None]
        told = torch.where(free, flow.unguided(told), told)
        t = torch.rand(len(real), device=real.device)
        start = torch.zeros_like(total)
        lookahead = draw.choice(self.config.lookaheads)
        mask = sees(real.shape[1], flow.config, lookahead, start, total, 0)
        share = t[:, None, None]
        noisy = (1 - share) * torch.randn_like(real) + share * real
        error = self._square(flow(noisy, t, told, mask, inside) - real, inside)
        return (error / (1 - t).clamp(min=0.25)).mean() * 0.5

    def _square(self, error: Tensor, inside: Tensor) -> Tensor:
        """(B,) mean square, each utterance by itself."""
        square = (error.float().square() * self.weight * inside).sum((1, 2))
        return square / (self.weight.sum() * inside.sum((1, 2)))

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """On dev recordings with their own durations: mel distance of the mean and of the flow's frames in 4 steps
        (nats), error of log pitch where voiced, and of durations in frames."""
        assert isinstance(model, SpeechModel)
        rows = [self._measure(model, e) for e in self.dev[:10]]
        return {name: sum(r[name] for r in rows) / len(rows) for name in rows[0]} if rows else {}

    def _measure(self, model: SpeechModel, e: Example) -> dict[str, float]:
        batch = collate([e], self.device)
        drawn = model.acoustic(batch.phones, batch.counts, batch.speaker, batch.durations)
        mean = drawn.frames[0, :, : mel.WIDTH] * model.acoustic.deviation + model.acoustic.mean
        made = made_frames(model, drawn.frames, steps=4)
        voiced = e.frames[:, mel.VOICED] > 0.5
        far = (drawn.log_durations[0].exp() - 1 - e.durations.to(self.device)).abs().mean()
        real = e.frames.to(self.device)
        return {"mean mel": float((mean - real)[:, : mel.MELS].abs().mean()),
                "flow mel": float((made - real)[:, : mel.MELS].abs().mean()),
                "pitch": float((made - real)[voiced][:, mel.PITCH].square().mean().sqrt()),
                "duration": float(far)}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def made_frames(model: SpeechModel, told: Tensor, steps: int, lookahead: int = WHOLE) -> Tensor:
    """One utterance through the flow: (1, T, width) -> (T, 82)."""
    count = torch.tensor([told.shape[1]], device=told.device)
    stage = FlowStage(model.flow, model.acoustic.mean, model.acoustic.deviation, steps=steps)
    state = stage.init_state(1)
    return stage.step(model.flow.ahead(told, count), state, count, count > 0, lookahead)[0][0]


@torch.no_grad()
def remake(model: SpeechModel, recordings: Sequence[Told], speakers: Sequence[str],
           steps: int = 4) -> dict[str, Tensor]:
    """What the model makes of recordings of its training, with their own durations, by their path: (T, 82) float16."""
    device = model.acoustic.mean.device
    made = {}
    for r, a in recordings:
        if a is None or r.split != "train":
            continue
        batch = collate([example(r, a, speakers)], device)
        drawn = model.acoustic(batch.phones, batch.counts, batch.speaker, batch.durations)
        made[r.path] = made_frames(model, drawn.frames, steps).cpu().half()
    return made


def stand_ins(aligned: Iterable[Aligned | None]) -> dict[int, int]:
    """For each symbol that was hardly ever heard the one like it that was heard most: another end of a sentence, the
    same vowel under another stress."""
    counts = Counter(phone for a in aligned if a for phone in a.phones)
    out: dict[int, int] = {}
    for group in ALIKE:
        ids = [IDS[symbol] for symbol in group]
        most = max(ids, key=lambda i: counts[i])
        out |= {i: most for i in ids if counts[i] < RARE <= counts[most]}
    return out


def example(recording: Recording, aligned: Aligned, speakers: Sequence[str]) -> Example:
    phones, durations = (torch.tensor(x) for x in aligned)
    return Example(phones, durations, recording.frames[: int(durations.sum())], speakers.index(recording.speaker))


def shorten(e: Example, longest: int, draw: random.Random) -> Example:
    """A part of it that begins after one separator and ends with another, of at most `longest` frames. Half of what is
    short enough stays whole; of the rest, half is cut at punctuation where there is any."""
    if len(e.frames) <= longest and draw.random() < 0.5:
        return e
    for marks in (MARKS, MARKS | SPACES) if draw.random() < 0.5 else (MARKS | SPACES,):
        cuts = [0] + [i + 1 for i, p in enumerate(e.phones.tolist()) if p in marks]
        ends = torch.nn.functional.pad(e.durations.cumsum(0), (1, 0)).tolist()
        spans = [(a, b) for i, a in enumerate(cuts) for b in cuts[i + 1 :] if 50 <= ends[b] - ends[a] <= longest]
        if spans:
            a, b = draw.choice(spans)
            return Example(e.phones[a:b], e.durations[a:b], e.frames[ends[a] : ends[b]], e.speaker)
    return e


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    def padded(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True).to(device)

    return Batch(padded([e.phones for e in examples]), padded([e.durations for e in examples]),
                 torch.tensor([len(e.phones) for e in examples], device=device),
                 padded([e.frames for e in examples]),
                 torch.tensor([e.speaker for e in examples], device=device))
