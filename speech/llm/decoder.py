"""The decoder-only transformer of Qwen2, Qwen3 and Llama: its weights, and one pass over whole sequences.

Weights come from hub.py or a trainer. `LanguageModel` (model.py) runs the layers on a key-value cache: attention is the
caller's, and `logits` turns the few hidden states that are needed into scores of the next token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce.kernels.registry import rms_norm, rotary, swiglu
from vivavoce.kernels.rotary import rotary_table

from .config import LlmConfig

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer number, q (..., heads, D), k and v (..., kv_heads, D) not yet rotated -> (..., heads, D)."""


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_dim, config.qkv_bias)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, config.out_bias)
        self.q_norm = RmsNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(config.head_dim, config.eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=-2)
        y: Tensor = self.out(attend(layer, self.q_norm(q), self.k_norm(k), v).flatten(-2))
        return y


class Layer(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.norm_attention = RmsNorm(config.width, config.eps)
        self.attention = Attention(config)
        self.norm_mlp = RmsNorm(config.width, config.eps)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, config.mlp_bias)
        self.down = nn.Linear(config.hidden, config.width, config.mlp_bias)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.attention(self.norm_attention(x), layer, attend)
        y: Tensor = x + self.down(swiglu(self.gate_up(self.norm_mlp(x))))
        return y


class Decoder(nn.Module):
    """The weights. `forward` is one pass without a cache, for training; `LanguageModel` runs it on one."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, config.eps)
        self.head: nn.Module | None = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    @classmethod
    def empty(cls, config: LlmConfig) -> Decoder:
        """Without weights; `weights.fit` gives it some."""
        with torch.device("meta"):
            return cls(config)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states of whole sequences: x (batch, n) tokens or (batch, n, width) embeddings -> (batch, n, width).
        Every position sees all before it."""
        table = rotary_table(self.config.frequencies(), x.shape[1]).to(self.norm.weight)
        positions = torch.arange(x.shape[1], device=x.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (t.transpose(1, 2) for t in (rotary(q, table, positions), rotary(k, table, positions), v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

        return self.run(x, attend)

    def run(self, x: Tensor, attend: Attend) -> Tensor:
        """All layers over tokens (...) or embeddings (..., width); attention is the caller's."""
        x = x if x.is_floating_point() else self.embed(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, i, attend)
        y: Tensor = self.norm(x)
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary)."""
        y: Tensor = F.linear(hidden, self.embed.weight) if self.head is None else self.head(hidden)
        return y

    @torch.no_grad()
    def extend_vocabulary(self, tokens: int, *, seed: int = 0) -> None:
        """Append `tokens` rows for speech and control tokens: drawn around the mean of those there, with their spread,
        so that before training none stands out. The rows that were there stay as they are."""
        draw = torch.Generator().manual_seed(seed)
        tables: list[nn.Embedding | nn.Linear] = [self.embed]
        tables += [self.head] if isinstance(self.head, nn.Linear) else []
        for module in tables:
            old = module.weight
            noise = torch.randn(tokens, old.shape[1], generator=draw).to(old)
            module.weight = nn.Parameter(torch.cat((old, old.mean(0) + noise * old.std(0))), old.requires_grad)
        self.config = dataclasses.replace(self.config, vocabulary=self.config.vocabulary + tokens)
        self.embed.num_embeddings = self.config.vocabulary
        if isinstance(self.head, nn.Linear):
            self.head.out_features = self.config.vocabulary


class Projector(nn.Module):
    """Encoder frames (..., frames_width) -> embeddings (..., width) that stand among the tokens'."""

    def __init__(self, frames_width: int, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(frames_width, width), nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(frames)))
        return y
