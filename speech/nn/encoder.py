"""The cache-aware FastConformer encoder: log-mel frames in, one encoder frame every 80 ms out.

Architecture of NVIDIA's cache-aware streaming FastConformer (arXiv 2312.17279). There is one `step`; training and
offline are that step from fresh state. The lookahead R belongs to the step: a frame sees its own chunk of R + 1 frames
and the `left_context // (R + 1)` chunks before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.kernels.conv import depthwise
from vivavoce.kernels.registry import conv_step, relative_attention
from vivavoce.streaming.buffers import count_mask
from vivavoce.streaming.replay import Replays
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .key_cache import ROOM, align_, append_
from .subsampling import SUBSAMPLING, Subsampling


@dataclass(frozen=True)
class EncoderConfig:
    """width: features a frame; hidden: inside the feed-forwards; channels: of the subsampling convolutions;
    causal: False for checkpoints that hear whole utterances only (symmetric convolutions, unlimited attention)."""

    mels: int = 80
    width: int = 512
    layers: int = 17
    heads: int = 8
    hidden: int = 2048
    conv_kernel: int = 9
    channels: int = 256
    left_context: int = 70
    causal: bool = True
    bias: bool = True
    scale_input: bool = False
    conv_norm: Literal["layer", "batch"] = "layer"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and divisible by heads {self.heads}")
        if self.causal and self.conv_norm != "layer":
            raise ValueError("a causal encoder normalises its convolutions by layer; set conv_norm to 'layer'")


@dataclass(frozen=True, eq=False)
class LayerState(State):
    """attention: keys and values (see key_cache.py), (slots, 2, heads, left_context + ROOM, width / heads); conv:
    (slots, conv_kernel - 1, width)."""

    attention: Tensor
    conv: Tensor


@dataclass(frozen=True, eq=False)
class EncoderState(State):
    """frames: (slots,) int64 given so far; end: (slots,) int64, where the newest keys of each layer stop; below: the
    last item into each subsampling convolution, (slots, 1, F, C)."""

    frames: Tensor
    end: Tensor
    below: tuple[Tensor, ...]
    layers: tuple[LayerState, ...]


@dataclass(frozen=True)
class Chunks:
    """For each of the T frames of a step: where its chunk begins and how many frames the chunk is planned to have
    (R + 1). begin, size: (T,) int64."""

    begin: Tensor
    size: Tensor

    @classmethod
    def uniform(cls, frames: int, lookahead: int, device: torch.device) -> Chunks:
        size = lookahead + 1
        return cls(
            torch.arange(frames, device=device) // size * size,
            torch.full((frames,), size, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class Now:
    """What all layers of one step share. valid: (B,) of its frames; None: all count. mask: (B or 1, 1, T, L), L = left
    context + T with state, T without. at: where the new keys go, with state."""

    valid: Tensor | None
    mask: Tensor
    at: int


class FeedForward(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, config.width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.up(x))
        return self.down(self.dropout(x) if self.training else x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over the cached left context and the step's own frames, with relative positions."""

    table: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)
        self.position = nn.Linear(config.width, config.width, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(config.heads, config.width // config.heads))
        self.bias_v = nn.Parameter(torch.zeros(config.heads, config.width // config.heads))
        self.register_buffer("table", None, persistent=False)

    def forward(self, x: Tensor, state: LayerState | None, now: Now) -> Tensor:
        """x: (B, T, width)."""
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(0, 2, 3, 1, 4)
        q, kv = qkv.select(1, 0), qkv.narrow(1, 1, 2)
        if state is not None:
            kv = append_(state.attention, kv, now.at, now.mask.shape[3] - x.shape[1], now.valid)
        k, v = kv.unbind(1)
        positions = self._positions(x.shape[1], k.shape[2], x)
        dropout = self.dropout if self.training else 0.0
        y = relative_attention(q, k, v, positions, self.bias_u, self.bias_v, now.mask, dropout)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _positions(self, queries: int, keys: int, like: Tensor) -> Tensor:
        """(heads, keys + queries - 1, D): position keys of distances keys - 1 down to -(queries - 1)."""
        if self.table is not None:
            middle = self.table.shape[1] // 2  # distance 0
            if middle >= keys - 1:
                return self.table.narrow(1, middle - keys + 1, keys + queries - 1)
        return self._project(keys - 1, -queries, like)

    def _project(self, high: int, below: int, like: Tensor) -> Tensor:
        distance = torch.arange(high, below, -1, device=like.device, dtype=torch.float64)
        rows: Tensor = self.position(sinusoid(distance, like.shape[-1]).to(like.dtype))
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)

    @torch.no_grad()
    def tabulate(self, distance: int) -> None:
        """Keep the projected position keys up to this distance: they depend on the weights alone."""
        self.table = self._project(distance, -distance - 1, self.bias_u.flatten()).contiguous()


def sinusoid(position: Tensor, width: int) -> Tensor:
    """(n,) -> (n, width), sine and cosine interleaved."""
    rate = torch.exp(torch.arange(0, width, 2, device=position.device, dtype=torch.float64) * (-math.log(1e4) / width))
    angle = position[:, None].to(torch.float64) * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise over time, norm, Swish, pointwise."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        w, self.kernel, self.causal = config.width, config.conv_kernel, config.causal
        self.expand = nn.Linear(w, 2 * w, bias=config.bias)
        self.depthwise = nn.Conv1d(w, w, config.conv_kernel, groups=w, bias=config.bias)
        self.norm = nn.LayerNorm(w) if config.conv_norm == "layer" else nn.BatchNorm1d(w)
        self.out = nn.Linear(w, w, bias=config.bias)

    def forward(self, x: Tensor, state: LayerState | None, valid: Tensor | None) -> Tensor:
        """x: (B, T, width); valid: (B,) of its frames; None: all count."""
        weight, bias, norm = self.depthwise.weight.squeeze(1), self.depthwise.bias, self.norm
        x = self.expand(x)
        if state is not None:
            assert isinstance(norm, nn.LayerNorm)
            x = conv_step(x, state.conv, weight, bias, norm.weight, norm.bias, norm.eps, valid)
            return self.out(x)  # type: ignore[no-any-return]
        x = F.glu(x, dim=-1)
        if valid is not None:
            x = x.masked_fill(~count_mask(valid, x.shape[1])[..., None], 0.0)
        if self.causal:
            x = F.pad(x, (0, 0, self.kernel - 1, 0))
        else:
            x = F.pad(x, (0, 0, (self.kernel - 1) // 2, (self.kernel - 1) // 2))
        x = depthwise(x, weight, bias)
        x = norm(x.transpose(1, 2)).transpose(1, 2) if isinstance(norm, nn.BatchNorm1d) else norm(x)
        return self.out(F.silu(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm; each on a normalised residual branch."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_ff1, self.ff1 = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_attention, self.attention = nn.LayerNorm(config.width), Attention(config)
        self.norm_conv, self.conv = nn.LayerNorm(config.width), Convolution(config)
        self.norm_ff2, self.ff2 = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_out = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, state: LayerState | None, now: Now) -> Tensor:
        x = self._join(x, self.ff1(self.norm_ff1(x)), 0.5)
        x = self._join(x, self.attention(self.norm_attention(x), state, now))
        x = self._join(x, self.conv(self.norm_conv(x), state, now.valid))
        x = self._join(x, self.ff2(self.norm_ff2(x)), 0.5)
        return self.norm_out(x)  # type: ignore[no-any-return]

    def _join(self, x: Tensor, branch: Tensor, share: float = 1.0) -> Tensor:
        return torch.add(x, self.dropout(branch) if self.training else branch, alpha=share)


class LayerOfTensors(nn.Module):
    """A layer as `Replays` takes it, and as a step with state calls it."""

    def __init__(self, layer: nn.Module, left_context: int) -> None:
        super().__init__()
        self.layer, self.left_context = layer, left_context

    def forward(self, x: Tensor, mask: Tensor, attention: Tensor, conv: Tensor, *valid: Tensor) -> Tensor:
        """attention: what is kept of the layer's keys and values, and the place after them for T more."""
        now = Now(valid[0] if valid else None, mask, self.left_context)
        return self.layer(x, LayerState(attention, conv), now)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Mel frames (slots, n, mels) -> encoder frames (slots, n / 8, width). A `Stage`; chunks are 8 (R + 1) frames."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(config.mels, config.channels, config.width, config.causal)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.replays: Replays | None = None
        self.reset_parameters()

    def record(self) -> None:
        """From now on replay the layers for kinds of steps that are frequent. On a CPU, for weights that stay."""
        self.replays = Replays([LayerOfTensors(layer, self.config.left_context) for layer in self.layers])

    def tabulate(self) -> None:
        """Keep every layer's projected position keys, which depend on the weights alone, for steps of up to 15 s."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.attention.tabulate(256)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights to begin training with.

        Torch's own defaults shrink every signal and add random biases, so that frames hardly differ after a few layers
        and nothing is learnt for thousands of steps. Here the first convolution centres log-mel values (speech has a
        mean of about -9 and a deviation of 4), convolutions and linears keep the variance (He, arXiv 1502.01852;
        Glorot), and each layer's four branches begin small beside the residual, which the sum would drown otherwise.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        first = self.subsampling.convs[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        first.weight /= 4.0
        first.bias.copy_(9.0 * first.weight.sum((1, 2, 3)))
        for layer in self.layers:
            assert isinstance(layer, Layer)
            for out in (layer.ff1.down, layer.attention.out, layer.conv.out, layer.ff2.down):
                out.weight *= (4 * len(self.layers)) ** -0.5

    @property
    def spec(self) -> StageSpec:
        return StageSpec(Fraction(100), Fraction(100, SUBSAMPLING), chunk=SUBSAMPLING, head=SUBSAMPLING - 1)

    def init_state(self, slots: int) -> EncoderState:
        if not self.config.causal:
            raise ValueError("this encoder hears whole utterances only; use forward()")
        c, like = self.config, self.layers[0].norm_out.weight.detach()  # type: ignore[union-attr, operator]
        bins = self.subsampling.bins(c.mels)
        keys = (slots, 2, c.heads, c.left_context + ROOM, c.width // c.heads)
        return EncoderState(
            frames=torch.zeros(slots, dtype=torch.int64, device=like.device),
            end=torch.full((slots,), c.left_context, dtype=torch.int64, device=like.device),
            below=tuple(like.new_zeros(slots, 1, bins[i], 1 if i == 0 else c.channels) for i in range(3)),
            layers=tuple(
                LayerState(like.new_zeros(keys), like.new_zeros(slots, c.conv_kernel - 1, c.width)) for _ in self.layers
            ),
        )

    def step(
        self, x: Tensor, state: EncoderState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x: (slots, n, mels), n a multiple of 8; a row's valid is whole chunks of 8 (lookahead + 1), or less where it
        is final. The stream's first chunk begins with 7 frames of zeros (`spec.head`)."""
        with torch.no_grad():
            return self._run(x, state, valid, Chunks.uniform(x.shape[1] // SUBSAMPLING, lookahead, x.device))

    def forward(
        self, mel: Tensor, frames: Tensor, lookahead: int = 69, chunks: Chunks | None = None
    ) -> tuple[Tensor, Tensor]:
        """Whole utterances from fresh state, with gradients.

        mel: (B, n, mels); frames: (B,) mel frames that count; chunks: instead of one lookahead, for each encoder frame
        its own. Returns (B, T, width) and (B,) counts.
        """
        n = self.encoder_frames(mel.shape[1])
        if self.config.causal:
            head = SUBSAMPLING - 1
            mel = F.pad(mel, (0, 0, head, max(0, SUBSAMPLING * n - head - mel.shape[1])))
            frames = frames + head
        return self._run(mel, None, frames, chunks or Chunks.uniform(n, lookahead, mel.device))

    def encoder_frames(self, mel_frames: int) -> int:
        """How many frames come out for a stream of so many mel frames."""
        for _ in range(3):
            mel_frames = int(self.subsampling.length(mel_frames)) if mel_frames > 0 else 0
        return mel_frames

    def _run(self, x: Tensor, state: EncoderState | None, valid: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
        start = torch.zeros_like(valid) if state is None else state.frames.clone()
        head = SUBSAMPLING - 1 if self.config.causal else 0
        seen = SUBSAMPLING * start - head + valid
        end = seen
        for _ in range(3):
            end = torch.where(seen > 0, self.subsampling.length(end), 0)
        count = (end - start).clamp(min=0)
        if len(chunks.begin) == 0:
            return x.new_zeros(x.shape[0], 0, self.config.width), count
        first = SUBSAMPLING * start - head
        full = self._full(first, valid, x.shape[1])
        h = self.subsampling(x, seen, first, None if state is None else state.below, None if full else valid)
        if self.config.scale_input:
            h = h * math.sqrt(self.config.width)
        h = self.dropout(h)
        frames, kept = h.shape[1], self.config.left_context
        at = 0 if state is None else align_((s.attention for s in state.layers), state.end, kept, frames)
        now = Now(None if full else count, self._mask(start, count, chunks, state is not None, h.dtype), at)
        h = self._through_layers(h, state, now)
        if state is not None:
            state.frames.add_(count)
            if at + frames <= kept + ROOM:
                state.end.add_(count)
        return h, count

    def _through_layers(self, h: Tensor, state: EncoderState | None, now: Now) -> Tensor:
        kept, frames = self.config.left_context, h.shape[1]
        if state is not None and self.replays is not None and now.at + frames <= kept + ROOM:
            own = [(s.attention.narrow(3, now.at - kept, kept + frames), s.conv) for s in state.layers]
            valid = () if now.valid is None else (now.valid,)
            kind = (h.shape, now.mask.shape, len(valid))
            if replays := self.replays.of(kind, h, now.mask, *own[0], *valid):
                for replay, memory in zip(replays, own, strict=True):
                    h = replay(h, now.mask, *memory, *valid)
                return h
        for i, layer in enumerate(self.layers):
            h = layer(h, None if state is None else state.layers[i], now)
        return h

    @staticmethod
    def _full(first: Tensor, valid: Tensor, n: int) -> bool:
        """Whether nothing needs masking: every row brings n frames, all within its stream. Asked once a step, and only
        where the answer is at hand: a GPU would have to be waited for."""
        return valid.device.type == "cpu" and bool(((valid == n) & (first >= 0)).all())

    def _mask(self, start: Tensor, count: Tensor, chunks: Chunks, cached: bool, dtype: torch.dtype) -> Tensor:
        """(slots, 1, T, L): 0 for the keys a query sees, -inf for others. Keys are the cached left context, then the
        new frames."""
        queries = len(chunks.begin)
        left = self.config.left_context if cached else 0
        key = torch.arange(-left, queries, device=start.device)
        sees = ((key >= -start[:, None]) & (key < count[:, None]))[:, None]
        if self.config.causal:
            begin, size = chunks.begin[:, None], chunks.size[:, None]
            sees = sees & (key >= begin - self.config.left_context // size * size) & (key < begin + size)
        else:
            sees = sees.expand(-1, queries, -1)
        # a padding query sees nothing; let it see everything, so that no softmax divides zero by zero
        sees = sees | ~sees.any(-1, keepdim=True)
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))[:, None]
