"""Training of the token path: the tokenizer's quantiser, then the planner that draws frames from its tokens.

The quantiser sits between the layers of a shipped recogniser and learns to let through what the layers above need to
hear the same words; nothing else of the recogniser changes. The planner then learns to draw a voice's frames from the
tokens of its recordings, and what else the voice's flow, which stays as it is, wants to be told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vivavoce.recipes.data import manifest
from vivavoce.speech import audio
from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.nn.encoder import Encoder
from vivavoce.speech.tts import mel
from vivavoce.speech.tts.flow import Flow, sees
from vivavoce.speech.tts.planner import Planner
from vivavoce.speech.tts.tap import Squeezed
from vivavoce.speech.tts.tokens import RATE, Quantiser, SpeechTokenizer, TokenizerConfig
from vivavoce.streaming.buffers import count_mask

from .data import Recording
from .schedule import OptimizerConfig
from .speech import WHOLE

ALIKE = 24  # recordings on either side, by length, that may share a batch with one
Heard = tuple[str, Tensor]  # split, (n,) float32 at 16 kHz


@dataclass(frozen=True)
class TokensConfig:
    """recogniser: whose encoder is cut after `layers`; tap: below them all instead, at 25 Hz; levels: see
    `TokenizerConfig`; corpora: heard besides those of the voice; seconds: of a batch; lookaheads: drawn for the
    encoder."""

    recogniser: str = "small-en"
    corpora: tuple[str, ...] = ()
    layers: int = 4
    tap: bool = False
    levels: tuple[int, ...] = (8, 5, 5, 5)
    seconds: float = 30.0
    lookaheads: tuple[int, ...] = (1, 6, 13)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class PlannerTraining:
    """width, hidden, layers, ahead: of the planner; frames: of a batch; lookahead: of the encoder that makes its
    tokens; flow_from: the step at which it begins to learn what else the flow wants to be told, which costs most;
    others_until: the step from which on nobody is heard but the voice itself."""

    width: int = 192
    hidden: int = 512
    layers: int = 4
    ahead: int = 2
    frames: int = 900
    lookahead: int = 6
    flow_from: int = 0
    others_until: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


def cut(recogniser: AsrModel, layers: int, levels: tuple[int, ...], *, tap: bool = False) -> SpeechTokenizer:
    """A tokenizer of the recogniser's lower layers, or of its tap, a frozen copy, with a new quantiser."""
    c = recogniser.config
    encoder = replace(c.encoder, layers=layers, dropout=0.0)
    tokenizer = SpeechTokenizer(TokenizerConfig(encoder, c.preemphasis, levels, tap=tap))
    own = tokenizer.encoder.state_dict()
    tokenizer.encoder.load_state_dict({name: t for name, t in recogniser.encoder.state_dict().items() if name in own})
    tokenizer.encoder.requires_grad_(False)
    return tokenizer


class Lesson(NamedTuple):
    """What the recogniser made of a batch. middle: (B, T or 2 T, width) where its encoder is cut; passed: what the
    quantiser let through; wanted, heard: (B, T, pieces + 1) log probabilities without the quantiser and through it;
    inside: (B, T, 1) which frames count."""

    middle: Tensor
    passed: Tensor
    wanted: Tensor
    heard: Tensor
    inside: Tensor


@contextmanager
def squeezed(encoder: Encoder, layers: int, between: Callable[[Tensor], Tensor], *, tap: bool) -> Iterator[None]:
    """While open, what the encoder's lower layers (or its tap) give goes through `between`."""
    whole = encoder.subsampling
    hook = None if tap else encoder.layers[layers - 1].register_forward_hook(lambda _layer, _inputs, y: between(y))
    if tap:
        encoder.subsampling = Squeezed.of(whole, between)
    try:
        yield
    finally:
        encoder.subsampling = whole
        if hook is not None:
            hook.remove()


class TokensPart:
    """The quantiser in training; a `Part`. The recogniser is frozen."""

    def __init__(self, quantiser: Quantiser, recogniser: AsrModel, heard: Sequence[Heard], config: TokensConfig,
                 device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed
        self.model: nn.Module = quantiser.to(device)
        self.recogniser = recogniser.to(device).eval().requires_grad_(False)
        self.train = sorted((pcm for split, pcm in heard if split == "train"), key=len)
        self.dev = [pcm for split, pcm in heard if split == "dev"]

    def batch(self, step: int) -> tuple[list[Tensor], int]:
        """Recordings of like length, so that little is padding, and a lookahead."""
        draw = random.Random(self.seed * 1_000_003 + step)
        middle = draw.randrange(len(self.train))
        alike = self.train[max(0, middle - ALIKE) : middle + ALIKE + 1]
        pcm: list[Tensor] = []
        while sum(map(len, pcm)) < self.config.seconds * RATE:
            pcm.append(draw.choice(alike))
        return pcm, draw.choice(self.config.lookaheads)

    def loss(self, step: int) -> dict[str, Tensor]:
        pcm, lookahead = self.batch(step)
        lesson = self._teach(self.model, pcm, lookahead)
        inside = lesson.inside.repeat_interleave(lesson.middle.shape[1] // lesson.inside.shape[1], dim=1)
        same = ((lesson.passed - lesson.middle).square() * inside).sum() / (lesson.middle.square() * inside).sum()
        words = F.kl_div(lesson.heard, lesson.wanted, reduction="none", log_target=True).sum(-1, keepdim=True)
        return {"same": same, "words": (words * lesson.inside).sum() / lesson.inside.sum()}

    def _teach(self, model: nn.Module, pcm: Sequence[Tensor], lookahead: int) -> Lesson:
        """A batch heard as it is and through the quantiser."""
        assert self.recogniser.ctc is not None
        samples = torch.tensor([len(p) for p in pcm], device=self.device)
        mels, frames = self.recogniser.features(pad_sequence(list(pcm), batch_first=True).to(self.device), samples)
        with torch.no_grad():
            x, count = self.recogniser.encoder(mels, frames, lookahead)
            wanted = self.recogniser.ctc(x)
        caught: list[tuple[Tensor, Tensor]] = []

        def squeeze(middle: Tensor) -> Tensor:
            caught.append((middle, model(middle)))
            return caught[0][1]

        with squeezed(self.recogniser.encoder, self.config.layers, squeeze, tap=self.config.tap):
            heard = self.recogniser.ctc(self.recogniser.encoder(mels, frames, lookahead)[0])
        return Lesson(*caught[0], wanted, heard, count_mask(count, x.shape[1])[..., None])

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """On dev recordings: share of frames whose likeliest piece stays, of codes in use, and of codes that would do
        as well if all were used alike (the exponential of their entropy)."""
        assert isinstance(model, Quantiser)
        codes = math.prod(self.config.levels)
        same, total, used = 0, 0, torch.zeros(codes)
        for pcm in self.dev[:40]:
            lesson = self._teach(model, [pcm], self.config.lookaheads[-1])
            same += int((lesson.heard.argmax(-1) == lesson.wanted.argmax(-1)).sum())
            total += lesson.heard.shape[1]
            used += model.fsq.tokens(model.down(lesson.middle)).flatten().bincount(minlength=codes).cpu()
        share = used / used.sum().clamp(min=1)
        return {"pieces kept": same / max(total, 1), "codes used": float((used > 0).sum()) / codes,
                "perplexity": float(torch.special.entr(share).sum().exp()) / codes}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


class PlannerModel(nn.Module):
    """A planner, and of others than its voice how they differ: a vector each, the voice's own stays zero."""

    def __init__(self, planner: Planner, others: int) -> None:
        super().__init__()
        self.planner = planner
        self.others = nn.Embedding(1 + others, planner.config.width, padding_idx=0)

    def forward(self, tokens: Tensor, who: Tensor) -> Tensor:
        """tokens: (B, n); who: (B,) 0 for the voice, others from 1 on."""
        return self.planner(tokens, self.others(who))  # type: ignore[no-any-return]


class Planned(NamedTuple):
    """tokens: (n,); frames: (T, 82), of them; who: 0 for the voice, others from 1 on."""

    tokens: Tensor
    frames: Tensor
    who: int


class PlannerPart:
    """The planner in training; a `Part`. others: recordings heard until `others_until`. The flow is frozen: it says
    what it wants to be told."""

    def __init__(self, planner: Planner, flow: Flow, normalise: tuple[Tensor, Tensor], own: Sequence[Recording],
                 others: Sequence[Recording], tokenizer: SpeechTokenizer, config: PlannerTraining,
                 device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed
        heard = others if config.others_until else ()
        who = {name: 1 + i for i, name in enumerate(sorted({r.speaker for r in heard}))}
        self.model: nn.Module = PlannerModel(planner, len(who)).to(device)
        self.flow = flow.to(device).eval().requires_grad_(False)
        self.mean, self.deviation = (t.to(device) for t in normalise)
        self.train, self.dev, strangers = (
            [Planned(*_paired(r, tokenizer, planner.config.frames, config.lookahead), who.get(r.speaker, 0))
             for r in recordings if r.split == split]
            for recordings, split in ((own, "train"), (own, "dev"), (heard, "train")))
        self.everybody = self.train + strangers

    def loss(self, step: int) -> dict[str, Tensor]:
        draw = random.Random(self.seed * 1_000_003 + step)
        heard = self.everybody if step < self.config.others_until else self.train
        chosen: list[Planned] = []
        while sum(len(p.frames) for p in chosen) < self.config.frames:
            chosen.append(draw.choice(heard))
        tokens = pad_sequence([p.tokens for p in chosen], batch_first=True, padding_value=-1).to(self.device)
        frames = pad_sequence([p.frames for p in chosen], batch_first=True).to(self.device)
        count = torch.tensor([len(p.frames) for p in chosen], device=self.device)
        inside = count_mask(count, frames.shape[1])[..., None]
        real = (frames - self.mean) / self.deviation * inside
        drawn = self.model(tokens, torch.tensor([p.who for p in chosen], device=self.device))
        losses = {"mean": _square(drawn[..., : mel.WIDTH] - real, inside)}
        if step >= self.config.flow_from:
            losses["flow"] = self._told(drawn, real, count, inside)
        return losses

    def _told(self, drawn: Tensor, real: Tensor, count: Tensor, inside: Tensor) -> Tensor:
        t = torch.rand(len(real), device=real.device)
        told = self.flow.ahead(torch.cat((drawn[..., : mel.WIDTH].detach(), drawn[..., mel.WIDTH :]), dim=-1), count)
        noisy = (1 - t)[:, None, None] * torch.randn_like(real) + t[:, None, None] * real
        mask = sees(real.shape[1], self.flow.config, WHOLE, torch.zeros_like(count), count, 0)
        return _square(self.flow(noisy, t, told, mask, inside) - real, inside)

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Mel distance of the mean frames, in nats, on dev recordings."""
        assert isinstance(model, PlannerModel)
        far = []
        for p in self.dev[:10]:
            drawn = model.planner(p.tokens[None].to(self.device))[0, :, : mel.WIDTH] * self.deviation + self.mean
            far.append(float((drawn.cpu() - p.frames)[:, : mel.MELS].abs().mean()))
        return {"mean mel": sum(far) / len(far)} if far else {}

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


def frames_of(tokenizer: SpeechTokenizer) -> int:
    """How many of a voice's frames a token stands for."""
    return tokenizer.config.hop * mel.RATE // RATE // mel.HOP


def _square(error: Tensor, inside: Tensor) -> Tensor:
    return (error.float().square() * inside).sum() / (inside.sum() * error.shape[-1])


def _paired(recording: Recording, tokenizer: SpeechTokenizer, each: int, lookahead: int) -> tuple[Tensor, Tensor]:
    """Its tokens and as many frames as they stand for (at the end, silence is added)."""
    tokens = tokenizer.tokens(at_low_rate(recording), lookahead)
    frames = recording.frames[: each * len(tokens)]
    missing = each * len(tokens) - len(frames)
    return tokens, torch.cat((frames, frames[-1:].expand(missing, -1)))


def at_low_rate(recording: Recording) -> Tensor:
    """Its sound as the tokenizer hears it: (n,) float32 at 16 kHz."""
    return torch.from_numpy(soxr.resample((recording.pcm.float() / 32768).numpy(), mel.RATE, RATE))


def listen(speech: Path, corpora: Sequence[str]) -> list[Heard]:
    """Recordings at 16 kHz, of 1 s to 12 s. Raises BadManifest, BadAudio."""
    return [(u.split, audio.read(u.path, RATE)) for corpus in corpora for u in manifest.load(speech / corpus)
            if u.text and 1 < u.seconds < 12]
