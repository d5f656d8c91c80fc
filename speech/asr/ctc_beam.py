"""CTC prefix beam search over a batch of live streams (Hannun et al. 2014), with an external scorer if there is one.

Encoder frames come in; tokens come out once every surviving prefix agrees on them, and never change afterwards. The
rest is the unstable tail, read with `tail`; `nbest` lists the prefixes with their scores and frames at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .ctc import FRAME_HZ, LogProbs
from .words import Emissions, Token

NEVER = float("-inf")
BLANK, LABEL = 0, 1  # the two ways a prefix's alignments may end, last axis of `mass` and `path`


class Scorer(Protocol):
    """An external model over prefixes: an n-gram, a neural language model, a list of hot words.

    It keeps whatever it knows of a prefix in a `State` whose leaves are (slots, beam, ...); scores are in nats, already
    weighted, and added to the CTC log-probability of the prefix.
    """

    def init_state(self, slots: int, beam: int) -> State: ...

    def score(self, state: Any, token: Tensor) -> Tensor:
        """What extending each prefix by each token adds. token: (slots, beam, n). Returns (slots, beam, n)."""
        ...

    def advance(self, state: Any, source: Tensor, token: Tensor, extended: Tensor) -> None:
        """Rewrite the state in place: prefix k now descends from prefix source[k], and where extended[k], by token[k].

        All (slots, beam).
        """
        ...

    def finish(self, state: Any) -> Tensor:
        """What the end of the stream adds to each prefix, (slots, beam)."""
        ...


@dataclass(frozen=True, eq=False)
class ContextState(State):
    """The last tokens of each prefix, oldest first, -1 before the stream's start."""

    context: Tensor  # (slots, beam, width) int64


class ContextScorer:
    """A plain Python function of the last `width` tokens as a `Scorer`; an n-gram model has width n - 1.

    score(context, token): the weighted log-probability of token after context; token is None at the end of the stream.
    """

    def __init__(self, score: Callable[[tuple[int, ...], int | None], float], width: int) -> None:
        self._score, self.width = score, width

    def init_state(self, slots: int, beam: int) -> ContextState:
        return ContextState(torch.full((slots, beam, self.width), -1))

    def score(self, state: ContextState, token: Tensor) -> Tensor:
        contexts, tokens = state.context.flatten(0, 1).tolist(), token.flatten(0, 1).tolist()
        rows = [[self._score(tuple(c), t) for t in ts] for c, ts in zip(contexts, tokens, strict=True)]
        return torch.tensor(rows, dtype=torch.float64, device=token.device).view(token.shape)

    def advance(self, state: ContextState, source: Tensor, token: Tensor, extended: Tensor) -> None:
        context = _take(state.context, source.to(state.context.device))
        longer = torch.cat([context, token.to(context)[..., None]], dim=-1)[..., 1:]
        state.context.copy_(torch.where(extended.to(context.device)[..., None], longer, context))

    def finish(self, state: ContextState) -> Tensor:
        scores = [self._score(tuple(c), None) for c in state.context.flatten(0, 1).tolist()]
        return torch.tensor(scores, dtype=torch.float64).view(state.context.shape[:2])


@dataclass(frozen=True, eq=False)
class BeamState(State):
    """The surviving prefixes of each slot, without the tokens already emitted, which they share.

    mass: log-probability of all alignments of the prefix, by how they end. path: that of the best one. frame, prob:
    when that best alignment begins each token, and the token's probability there. Scores are float64 because they
    grow for as long as the stream lasts. Size does not depend on the stream's length.
    """

    token: Tensor  # (slots, beam, tail) int64
    length: Tensor  # (slots, beam) int64
    last: Tensor  # (slots, beam) int64, the prefix's last token, emitted or not; the blank before the first
    mass: Tensor  # (slots, beam, 2) float64
    path: Tensor  # (slots, beam, 2) float64
    frame: Tensor  # (slots, beam, 2, tail) int64
    prob: Tensor  # (slots, beam, 2, tail) float32
    fused: Tensor  # (slots, beam) float64, what the external scorer has added
    frames: Tensor  # (slots,) int64, heard so far
    spoken: Tensor  # (slots,) int64, one past the last frame whose best label was not blank
    emitted: Tensor  # (slots,) int64, tokens emitted before those of `token`
    ended: Tensor  # (slots,) bool
    scorer: tuple[State, ...]  # none or one

    @property
    def score(self) -> Tensor:
        """(slots, beam); minus infinity where fewer prefixes survive."""
        return self.mass.logsumexp(-1) + self.fused

    @property
    def trailing_blanks(self) -> Tensor:
        """Frames of silence at the end of what was heard, (slots,)."""
        return self.frames - self.spoken


@dataclass(frozen=True)
class Hypothesis:
    """A prefix: its tokens after the `emitted` ones, and its score in nats."""

    tokens: tuple[Token, ...]
    score: float


class _Stay(NamedTuple):
    """Every prefix one frame later, not extended; fields as in `BeamState`."""

    mass: Tensor
    path: Tensor
    frame: Tensor
    prob: Tensor


class _Grow(NamedTuple):
    """Every prefix extended by every candidate token, (slots, beam, n); side: how the alignment it leaves ended."""

    token: Tensor
    mass: Tensor
    path: Tensor
    side: Tensor
    value: Tensor


class CtcBeam:
    """Prefix beam search as a Stage over encoder frames.

    beam: prefixes kept a slot. candidates: tokens a frame that may extend them. threshold: nats below the best at which
    a prefix is dropped. tail: longest tail in tokens: a near tie far back could keep prefixes from agreeing for ever,
    so when it is full the best prefix's oldest token is emitted and prefixes that disagree are dropped. All of it goes
    frame by frame, so chunks change nothing.
    """

    spec = StageSpec(in_hz=FRAME_HZ, out_hz=FRAME_HZ)

    def __init__(
        self,
        head: LogProbs,
        blank: int,
        beam: int = 16,
        candidates: int = 16,
        threshold: float = 12.0,
        tail: int = 32,
        scorer: Scorer | None = None,
    ) -> None:
        self.head, self.blank, self.beam = head, blank, beam
        self.candidates, self.threshold, self.tail_size, self.scorer = min(candidates, blank), threshold, tail, scorer

    def init_state(self, slots: int, device: torch.device | str = "cpu") -> BeamState:
        count = torch.zeros(slots, dtype=torch.int64, device=device)
        token = count.new_zeros(slots, self.beam, self.tail_size)
        frame = count.new_zeros(slots, self.beam, 2, self.tail_size)
        score = torch.full((slots, self.beam, 2), NEVER, dtype=torch.float64, device=device)
        score[:, 0, BLANK] = 0.0  # one live prefix, the empty one
        return BeamState(
            token=token,
            length=token[..., 0].clone(),
            last=torch.full_like(token[..., 0], self.blank),
            mass=score,
            path=score.clone(),
            frame=frame,
            prob=frame.float(),
            fused=torch.zeros_like(score[..., 0]),
            frames=count,
            spoken=count.clone(),
            emitted=count.clone(),
            ended=count.bool(),
            scorer=(self.scorer.init_state(slots, self.beam),) if self.scorer else (),
        )

    @torch.no_grad()
    def step(
        self, x: Tensor, state: BeamState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Emissions, Tensor]:
        """x: (slots, T, d). Returns emissions (slots, m) and how many of each row count.

        Where `final`, the best prefix's tail comes out too; `nbest` can still be read until the slot is reset.
        """
        log_probs = self.head(x).double()
        out = _Output(state, x.shape[1] + self.tail_size)
        for t in range(x.shape[1]):
            active = t < valid
            self._advance(log_probs[:, t], state, active)
            out.take(state, self._agree(state))
        ends = final & ~state.ended
        if bool(ends.any()):
            if self.scorer:
                state.fused.add_(torch.where(ends[:, None], self.scorer.finish(state.scorer[0]).to(state.fused), 0.0))
            out.take(state, _best(state, state.length) * ends, keep=True)
            state.ended.logical_or_(ends)
        return out.emissions()

    def tail(self, state: BeamState, slot: int) -> list[Token]:
        """What the best prefix holds beyond what was emitted; it may still change. Empty after the end."""
        return [] if bool(state.ended[slot]) else list(self.nbest(state, slot, 1)[0].tokens)

    def nbest(self, state: BeamState, slot: int, n: int | None = None) -> list[Hypothesis]:
        """Up to n surviving prefixes, best first; each continues the first `state.emitted[slot]` tokens emitted."""
        order = state.score[slot].argsort(descending=True)[:n].tolist()
        return [_hypothesis(state, slot, k) for k in order if float(state.score[slot, k]) > NEVER]

    def _advance(self, lp: Tensor, state: BeamState, active: Tensor) -> None:
        """One frame for the active slots. lp: (slots, vocab + 1)."""
        parent = _parents(state)
        stay, grow = self._stay(lp, state, parent), self._grow(lp, state, parent)
        added = (
            self.scorer.score(state.scorer[0], grow.token).to(grow.mass) if self.scorer else torch.zeros_like(grow.mass)
        )
        fused = torch.cat([state.fused, (state.fused[..., None] + added).flatten(1)], dim=1)
        mass = torch.cat([stay.mass.logsumexp(-1), grow.mass.flatten(1)], dim=1)
        score, choice = (mass + fused).topk(self.beam, dim=1)
        n, extended = grow.token.shape[-1], choice >= self.beam
        pick = (choice - self.beam).clamp(min=0)
        source = torch.where(extended, pick // n, choice)
        new = self._descend(state, stay, grow, source, pick, extended)
        new["fused"] = fused.gather(1, choice)
        self._prune(new, score)
        for name, value in new.items():
            old: Tensor = getattr(state, name)
            old.copy_(torch.where(active.view(-1, *[1] * (old.ndim - 1)), value, old))
        if self.scorer:
            itself = torch.arange(self.beam, device=source.device).expand_as(source)
            source = torch.where(active[:, None], source, itself)
            self.scorer.advance(
                state.scorer[0], source, grow.token.flatten(1).gather(1, pick), extended & active[:, None]
            )
        state.frames.add_(active)
        speaks = active & (lp.argmax(-1) != self.blank)
        state.spoken.copy_(torch.where(speaks, state.frames, state.spoken))

    def _stay(self, lp: Tensor, state: BeamState, parent: Tensor) -> _Stay:
        """A blank, the last token held on, or the last token newly begun by a parent that is in the beam as well."""
        last_lp = lp.gather(1, state.last).masked_fill(state.last == self.blank, NEVER)
        source = parent.int().argmax(1)  # of each prefix; meaningful where it has a parent
        mass, path, side = (v[..., 0] for v in _leave(state, source, state.last[..., None]))
        orphan = ~parent.any(1)
        born_mass, born_path = ((v + last_lp).masked_fill(orphan, NEVER) for v in (mass, path))
        held = state.path[..., LABEL] + last_lp
        blank_path, blank_side = (state.path + lp[:, self.blank, None, None]).max(-1)
        label_mass = torch.logaddexp(state.mass[..., LABEL] + last_lp, born_mass)
        label_path = torch.maximum(held, born_path)
        born = (born_path > held)[..., None]
        frame, prob = (
            torch.stack([_side(old, blank_side), torch.where(born, new, old[:, :, LABEL])], dim=2)
            for old, new in zip((state.frame, state.prob), _begin(state, source, side, last_lp), strict=True)
        )
        blank_mass = state.mass.logsumexp(-1) + lp[:, self.blank, None]
        return _Stay(torch.stack([blank_mass, label_mass], -1), torch.stack([blank_path, label_path], -1), frame, prob)

    def _grow(self, lp: Tensor, state: BeamState, parent: Tensor) -> _Grow:
        """Extensions; one that leads to a prefix already in the beam is counted there, so not here."""
        value, token = lp[:, : self.blank].topk(self.candidates, dim=1)
        token, value = (v[:, None].expand(-1, self.beam, -1) for v in (token, value))
        itself = torch.arange(self.beam, device=lp.device).expand_as(state.length)
        mass, path, side = _leave(state, itself, token)
        taken = (parent[..., None] & (state.last[:, None, :, None] == token[:, :, None])).any(2)
        return _Grow(token, (mass + value).masked_fill(taken, NEVER), path + value, side, value)

    def _descend(
        self, state: BeamState, stay: _Stay, grow: _Grow, source: Tensor, pick: Tensor, extended: Tensor
    ) -> dict[str, Tensor]:
        """The chosen prefixes, as the fields of the next state."""
        token, mass, path, side, value = (v.flatten(1).gather(1, pick) for v in grow)
        never = torch.full_like(mass, NEVER)
        frame, prob = _begin(state, source, side, value)
        length = state.length.gather(1, source)
        longer = _put(_take(state.token, source), length, token)
        one, two = extended[..., None], extended[..., None, None]
        return {
            "token": torch.where(one, longer, _take(state.token, source)),
            "length": length + extended,
            "last": torch.where(extended, token, state.last.gather(1, source)),
            "mass": torch.where(one, torch.stack([never, mass], -1), _take(stay.mass, source)),
            "path": torch.where(one, torch.stack([never, path], -1), _take(stay.path, source)),
            "frame": torch.where(two, frame[:, :, None], _take(stay.frame, source)),
            "prob": torch.where(two, prob[:, :, None], _take(stay.prob, source)),
        }

    def _prune(self, new: dict[str, Tensor], score: Tensor) -> None:
        drop = score < score[:, :1] - self.threshold
        for name in ("mass", "path"):
            new[name] = new[name].masked_fill(drop[..., None], NEVER)

    def _agree(self, state: BeamState) -> Tensor:
        """How many tail tokens all prefixes share, (slots,); a full tail is cut first, dropping those that disagree."""
        position = torch.arange(self.tail_size, device=state.token.device)
        length, live = _best(state, state.length), state.score > NEVER
        inside = position < torch.minimum(state.length, length[:, None])[..., None]
        same = (state.token == _best(state, state.token)[:, None]) & inside
        too_long = state.length == self.tail_size
        full = (too_long & live).any(1)[:, None]
        drop = full & torch.where(length[:, None] > 0, ~same[..., 0], too_long)
        for leaf in (state.mass, state.path):
            leaf.masked_fill_(drop[..., None], NEVER)
        return (same | ~live[..., None] | drop[..., None]).all(1).long().cumprod(-1).sum(-1)


class _Output:
    """Collects what each slot emits during a step."""

    def __init__(self, state: BeamState, size: int) -> None:
        self.count = torch.zeros_like(state.frames)
        self.token, self.frame = (state.frames.new_zeros(state.slots, size + 1) for _ in range(2))  # last: discarded
        self.prob = self.token.float()

    def take(self, state: BeamState, n: Tensor, keep: bool = False) -> None:
        """Emit the best prefix's first n (slots,) tail tokens, and unless `keep`, cut them off every prefix."""
        position = torch.arange(state.token.shape[-1], device=n.device).expand(len(n), -1)
        place = torch.where(position < n[:, None], self.count[:, None] + position, self.token.shape[1] - 1)
        side = state.path.argmax(-1)
        self.token.scatter_(1, place, _best(state, state.token))
        self.frame.scatter_(1, place, _best(state, _side(state.frame, side)))
        self.prob.scatter_(1, place, _best(state, _side(state.prob, side)))
        self.count.add_(n)
        if keep:
            return
        later = (position + n[:, None]).clamp(max=position.shape[1] - 1)
        for leaf in (state.token, state.frame, state.prob):
            leaf.copy_(leaf.gather(-1, later.view(len(n), *[1] * (leaf.ndim - 2), -1).expand_as(leaf)))
        state.length.sub_(n[:, None]).clamp_(min=0)
        state.emitted.add_(n)

    def emissions(self) -> tuple[Emissions, Tensor]:
        n = int(self.count.max()) if len(self.count) else 0
        frame = self.frame[:, :n]
        return Emissions(self.token[:, :n], frame, frame + 1, self.prob[:, :n]), self.count


def _hypothesis(state: BeamState, slot: int, k: int) -> Hypothesis:
    n, side = int(state.length[slot, k]), int(state.path[slot, k].argmax())
    columns = (state.token[slot, k], state.frame[slot, k, side], state.prob[slot, k, side])
    rows = zip(*(c[:n].tolist() for c in columns), strict=True)
    return Hypothesis(tuple(Token(t, f, f + 1, p) for t, f, p in rows), float(state.score[slot, k]))


def _parents(state: BeamState) -> Tensor:
    """(slots, i, j): whether prefix j is prefix i and one token more, both of them alive."""
    live = state.score > NEVER
    size = state.token.shape[-1]
    outside = torch.arange(size, device=live.device) >= state.length[..., None]
    same = ((state.token[:, :, None] == state.token[:, None]) | outside[:, :, None]).all(-1)
    longer = state.length[:, None] == state.length[:, :, None] + 1
    return same & longer & live[:, :, None] & live[:, None]


def _leave(state: BeamState, source: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What prefix source (slots, k) brings to a new token (slots, k, n): mass, best path, and how that path ended.

    To say its last token again a prefix must end in a blank: without one the token is merely held on.
    """
    mass, path = _take(state.mass, source), _take(state.path, source)
    again = token == state.last.gather(1, source)[..., None]
    best, side = path.max(-1, keepdim=True)
    return (
        torch.where(again, mass[..., BLANK, None], mass.logsumexp(-1, keepdim=True)),
        torch.where(again, path[..., BLANK, None], best),
        torch.where(again, BLANK, side),
    )


def _begin(state: BeamState, source: Tensor, side: Tensor, lp: Tensor) -> tuple[Tensor, Tensor]:
    """frame, prob (slots, k, tail) of prefix source's best alignment with a token begun now at lp (slots, k)."""
    frame, prob = _side(_take(state.frame, source), side), _side(_take(state.prob, source), side)
    length = state.length.gather(1, source)
    return _put(frame, length, state.frames[:, None].expand_as(length)), _put(prob, length, lp.exp().to(prob.dtype))


def _put(x: Tensor, position: Tensor, value: Tensor) -> Tensor:
    """x (slots, k, tail) with value (slots, k) at position (slots, k), which a dropped prefix may have past the end."""
    return x.scatter(-1, position.clamp(max=x.shape[-1] - 1)[..., None], value[..., None])


def _take(x: Tensor, source: Tensor) -> Tensor:
    """x (slots, beam, ...) at source (slots, k): (slots, k, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], source]


def _side(x: Tensor, side: Tensor) -> Tensor:
    """x (slots, k, 2, tail) at side (slots, k): (slots, k, tail)."""
    return torch.where(side[..., None] == LABEL, x[:, :, LABEL], x[:, :, BLANK])


def _best(state: BeamState, x: Tensor) -> Tensor:
    """x (slots, beam, ...) of the best prefix: (slots, ...)."""
    return _take(x, state.score.argmax(1, keepdim=True))[:, 0]
