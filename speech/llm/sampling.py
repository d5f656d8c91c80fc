"""The next token from logits: greedy, temperature, top-k, top-p, repetition-aware; each slot by its own settings.

Random numbers are a hash of the slot's seed and counter, so a session's draws do not depend on who else is in the
batch, and a snapshot goes on drawing as the session would have. The engine gives logits and takes tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.streaming.state import State

RECENT = 64  # the most tokens that repetition-aware sampling can look back


@dataclass(frozen=True)
class Sampling:
    """How a session draws.

    temperature: 0 takes the likeliest token (greedy). top_k: only the k likeliest, 0 for all. top_p: only the fewest
    whose probabilities reach p. ras_window, ras_share: when the token drawn makes up at least this share of the last
    `ras_window` tokens, draw again from everything (VALL-E 2, arXiv 2406.05370; CosyVoice 2 uses 10 and 0.1); window 0
    never does. seed: of the session's random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    ras_window: int = 0
    ras_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf") or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: temperature and top_k take 0 or more, top_p a value over 0 and at most 1")
        if not 0 <= self.ras_window <= RECENT or not 0 < self.ras_share <= 1:
            raise ValueError(f"{self}: ras_window takes 0 to {RECENT}, ras_share a value over 0 and at most 1")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"{self}: seed takes a whole number of 64 bits")


@dataclass(frozen=True, eq=False)
class SamplerState(State):
    """The settings and the random numbers of each slot, (slots,) each; recent: (slots, RECENT) the last tokens drawn,
    newest last, -1 where there were none yet."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    ras_window: Tensor
    ras_share: Tensor
    seed: Tensor
    counter: Tensor
    recent: Tensor

    @classmethod
    def empty(cls, slots: int, device: torch.device | str = "cpu") -> SamplerState:
        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(slots, dtype=dtype, device=device)

        real, whole = torch.float64, torch.int64
        recent = torch.full((slots, RECENT), -1, device=device)
        return cls(zeros(real), zeros(whole), zeros(real) + 1, zeros(whole), zeros(real) + 1, zeros(whole),
                   zeros(whole), recent)  # fmt: skip

    def set_(self, slot: int, sampling: Sampling) -> None:
        """Give a slot its settings, with its random numbers at their start and nothing drawn yet."""
        for name in ("temperature", "top_k", "top_p", "ras_window", "ras_share", "seed"):
            getattr(self, name)[slot] = getattr(sampling, name)
        self.counter[slot] = 0
        self.recent[slot] = -1


def sample(logits: Tensor, state: SamplerState, slots: Tensor) -> Tensor:
    """Draw one token a row. logits: (r, vocabulary), finite; slots: (r,) the slots they belong to, all different.
    Returns (r,) int64; what is drawn is remembered in `state`."""
    greedy = logits.argmax(-1)
    temperature = state.temperature[slots]
    if not bool((temperature > 0).any()):
        return _remember(greedy, state, slots)
    logits = logits.double()
    # from the highest down, so that no temperature is too small to divide by
    scores = (logits - logits.amax(-1, keepdim=True)) / torch.where(temperature > 0, temperature, 1)[:, None]
    draws = uniform(state.seed[slots, None], state.counter[slots, None] * 2 + torch.arange(2, device=logits.device))
    everything = scores.softmax(-1).sort(descending=True, stable=True)
    nucleus = _nucleus(everything.values, state.top_k[slots], state.top_p[slots])
    token = everything.indices.gather(1, _pick(nucleus, draws[:, 0]))[:, 0]
    again = everything.indices.gather(1, _pick(everything.values, draws[:, 1]))[:, 0]
    token = torch.where(_repeats(token, state, slots), again, token)
    return _remember(torch.where(temperature > 0, token, greedy), state, slots)


def _remember(token: Tensor, state: SamplerState, slots: Tensor) -> Tensor:
    state.counter[slots] += 1
    state.recent[slots] = torch.cat((state.recent[slots, 1:], token[:, None]), dim=1)
    return token


def _nucleus(sorted_: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities (r, n), largest first, with those outside top-k and top-p at 0; the first always stays."""
    rank = torch.arange(sorted_.shape[1], device=sorted_.device)
    kept = torch.where((rank < top_k[:, None]) | (top_k[:, None] == 0), sorted_, 0)
    kept = kept / kept.sum(1, keepdim=True)
    before = kept.cumsum(1) - kept
    return torch.where((before < top_p[:, None]) | (rank == 0), kept, 0)


def _pick(weights: Tensor, draw: Tensor) -> Tensor:
    """(r, 1) where the running sum of weights (r, n) passes draw (r,) of the whole; never a weight of 0."""
    sums = weights.cumsum(1)
    last = (weights > 0).sum(1, keepdim=True) - 1  # weights are sorted, so those over 0 come first
    return torch.minimum(torch.searchsorted(sums, draw[:, None] * sums[:, -1:], right=True), last)


def _repeats(token: Tensor, state: SamplerState, slots: Tensor) -> Tensor:
    window = state.ras_window[slots, None]
    near = torch.arange(RECENT, 0, -1, device=token.device) <= window
    count = ((state.recent[slots] == token[:, None]) & near).sum(1)
    return (window[:, 0] > 0) & (count > 0) & (count >= window[:, 0] * state.ras_share[slots])


def uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """Float64 in [0, 1), a function of seed and counter (int64, broadcast) and nothing else: SplitMix64's finaliser
    (Steele, Lea and Flood 2014) over both. Integers wrap, alike on every device."""
    mixed = _mix(_mix(seed + _GOLDEN) ^ (counter * _GOLDEN + _OFFSET))
    return _shift(mixed, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Right, filling with zeros (int64's own shift copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


_GOLDEN, _OFFSET = _signed(0x9E3779B97F4A7C15), 0x632BE59BD9B4E019
