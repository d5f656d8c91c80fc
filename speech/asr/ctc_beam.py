"""CTC prefix beam search over a batch of live streams (Hannun et al. 2014), with an external scorer if there is one.

Encoder frames come in; tokens come out once every surviving prefix agrees on them, and never change afterwards. The
rest is the unstable tail, read with `tail`; `nbest` lists the prefixes with their scores and frames at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State

from .ctc import FRAME_HZ, LogProbs
from .pronunciation import Pronunciation, PronunciationState
from .scorer import Scorer
from .words import Emissions, Token

NEVER = float("-inf")
BLANK, LABEL = 0, 1  # the two ways a prefix's alignments may end, last axis of `mass` and `path`
NOTHING = -1  # in a trail, where there is no token
FACTOR = 0x2545F4914F6CDD1D  # odd; int64 arithmetic wraps around


@dataclass(frozen=True, eq=False)
class BeamState(State):
    """The surviving prefixes of each slot, without the tokens already emitted, which they share.

    weight: by how its alignments end, the log-probability of all of them (`mass`) and of the best one (`path`); float64
    because they grow for as long as the stream lasts. trail: the tokens, NOTHING after the last, then when the best
    alignment that ends in a blank, and the best that ends in the label, begin each (see `_packed`). name: a fingerprint
    of the whole prefix, FACTOR times that of the prefix one token shorter, plus the token and 1. Its size does not
    depend on the stream's length.
    """

    trail: Tensor  # (slots, beam, 3, tail) int64
    length: Tensor  # (slots, beam) int64
    last: Tensor  # (slots, beam) int64, the prefix's last token, emitted or not; the blank before the first
    name: Tensor  # (slots, beam) int64
    weight: Tensor  # (slots, beam, 2, 2) float64
    fused: Tensor  # (slots, beam) float64, what scorer and pronunciation have added
    frames: Tensor  # (slots,) int64, heard so far
    spoken: Tensor  # (slots,) int64, one past the last frame whose best label was not blank
    emitted: Tensor  # (slots,) int64, tokens emitted before those of `trail`
    ended: Tensor  # (slots,) bool
    scorer: tuple[State, ...]  # none or one
    pronunciation: tuple[PronunciationState, ...]  # none or one

    @property
    def mass(self) -> Tensor:
        """(slots, beam, 2), a view."""
        return self.weight[..., 0]

    @property
    def path(self) -> Tensor:
        """(slots, beam, 2), a view."""
        return self.weight[..., 1]

    @property
    def score(self) -> Tensor:
        """(slots, beam); minus infinity where fewer prefixes survive."""
        return torch.logaddexp(self.mass[..., BLANK], self.mass[..., LABEL]) + self.fused

    @property
    def trailing_blanks(self) -> Tensor:
        """Frames of silence at the end of what was heard, (slots,)."""
        return self.frames - self.spoken


@dataclass(frozen=True)
class Hypothesis:
    """A prefix: its tokens after the `emitted` ones, and its score in nats."""

    tokens: tuple[Token, ...]
    score: float


class _Frame(NamedTuple):
    """What a frame says, (slots, ...): the blank, every label (the blank itself NEVER), the likeliest labels and which
    they are, and every label as something that begins here, `_packed`."""

    blank: Tensor
    label: Tensor
    value: Tensor
    token: Tensor
    begun: Tensor


class _Ways(NamedTuple):
    """All that can follow in one frame: every prefix as it is, then every prefix extended by every likely label, as n
    columns (slots, n, ...).

    silent: (slots, beam, 2), what then ends in a blank, mass and best path; extensions have none. label: (slots, n, 2),
    what ends in a label. row: (slots, n), the trail that its best alignment comes with. begun: (slots, beam), whether
    that begins the last token of a prefix as it is anew.
    """

    silent: Tensor
    label: Tensor
    row: Tensor
    begun: Tensor


class CtcBeam:
    """Prefix beam search as a Stage over encoder frames.

    beam: prefixes kept a slot. candidates: tokens a frame that may extend them. threshold: nats below the best at which
    a prefix is dropped. tail: longest tail in tokens: a near tie far back could keep prefixes from agreeing for ever,
    so when it is full the best prefix's oldest token is emitted and prefixes that disagree are dropped. blank_penalty:
    nats taken off the blank at every frame: CTC says it of most frames whatever they hold, and a language model, which
    makes every label dearer, says it once more (the prior of hybrid decoding, for one label). All of it goes frame by
    frame, so chunks change nothing, and for all slots at once, in few operations: their number is the cost.
    """

    spec = StageSpec(in_hz=FRAME_HZ, out_hz=FRAME_HZ)

    def __init__(
        self,
        head: LogProbs,
        blank: int,
        beam: int = 48,
        candidates: int = 16,
        threshold: float = 12.0,
        tail: int = 32,
        scorer: Scorer | None = None,
        blank_penalty: float = 0.0,
        pronunciation: Pronunciation | None = None,
    ) -> None:
        self.head, self.blank, self.beam, self.blank_penalty = head, blank, beam, blank_penalty
        self.candidates, self.threshold, self.tail_size, self.scorer = min(candidates, blank), threshold, tail, scorer
        self.pronunciation = pronunciation

    def init_state(self, slots: int, device: torch.device | str = "cpu") -> BeamState:
        count = torch.zeros(slots, dtype=torch.int64, device=device)
        length = count.new_zeros(slots, self.beam)
        weight = torch.full((slots, self.beam, 2, 2), NEVER, dtype=torch.float64, device=device)
        weight[:, 0, BLANK] = 0.0  # one live prefix, the empty one
        return BeamState(
            trail=count.new_full((slots, self.beam, 3, self.tail_size), NOTHING),
            length=length,
            last=torch.full_like(length, self.blank),
            name=length.clone(),
            weight=weight,
            fused=torch.zeros_like(length, dtype=torch.float64),
            frames=count,
            spoken=count.clone(),
            emitted=count.clone(),
            ended=count.bool(),
            scorer=(self.scorer.init_state(slots, self.beam),) if self.scorer else (),
            pronunciation=(
                (self.pronunciation.init_state(slots, self.beam, device),) if self.pronunciation else ()
            ),
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
        heard = self.pronunciation.hear(x) if self.pronunciation else None
        everybody = int(valid.min()) if len(valid) else 0
        for t, frame in enumerate(self._frames(log_probs, state)):
            label = None if heard is None else heard[:, t]
            self._advance(frame, state, label, None if t < everybody else t < valid)
            agreed = self._agree(state)
            if bool(agreed.any()):
                out.take(state, agreed)
        self._count(log_probs, state, valid)
        ends = final & ~state.ended
        if bool(ends.any()):
            if self.scorer:
                state.fused.add_(torch.where(ends[:, None], self.scorer.finish(state.scorer[0]).to(state.fused), 0.0))
            if self.pronunciation:
                last_words = self.pronunciation.finish(state.pronunciation[0])
                state.fused.add_(torch.where(ends[:, None], last_words, 0.0))
            out.take(state, _best(state, state.length) * ends, keep=True)
            state.ended.logical_or_(ends)
        return out.emissions()

    def tail(self, state: BeamState, slot: int) -> list[Token]:
        """What the best prefix holds beyond what was emitted; it may still change. Empty after the end."""
        return [] if bool(state.ended[slot]) else list(self.nbest(state, slot, 1)[0].tokens)

    def nbest(self, state: BeamState, slot: int, n: int | None = None) -> list[Hypothesis]:
        """Up to n surviving prefixes, best first; each continues the first `state.emitted[slot]` tokens emitted."""
        mass = state.mass[slot]
        score = torch.logaddexp(mass[:, BLANK], mass[:, LABEL]) + state.fused[slot]
        best = score.topk(self.beam if n is None else min(n, self.beam))
        return [
            Hypothesis(_tokens(state, slot, k), value)
            for value, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if value > NEVER
        ]

    def _frames(self, log_probs: Tensor, state: BeamState) -> list[_Frame]:
        """log_probs: (slots, T, vocab + 1), one by one."""
        label = log_probs.index_fill(-1, torch.tensor([self.blank], device=log_probs.device), NEVER)
        value, token = label.topk(self.candidates, dim=-1)
        number = state.frames[:, None] + torch.arange(log_probs.shape[1], device=log_probs.device)
        begun = _packed(number[..., None], label.exp())
        each = (x.unbind(1) for x in (log_probs[..., self.blank] - self.blank_penalty, label, value, token, begun))
        return [_Frame(*frame) for frame in zip(*each, strict=True)]

    def _count(self, log_probs: Tensor, state: BeamState, valid: Tensor) -> None:
        if log_probs.shape[1]:
            frame = torch.arange(log_probs.shape[1], device=valid.device)
            speaks = (log_probs.argmax(-1) != self.blank) & (frame < valid[:, None])
            past_speech = torch.where(speaks, frame, -1).amax(1) + 1
            state.spoken.copy_(torch.where(past_speech > 0, state.frames + past_speech, state.spoken))
            state.frames.add_(valid)

    def _advance(self, frame: _Frame, state: BeamState, heard: Tensor | None, active: Tensor | None) -> None:
        """One frame for the active slots, or for all. heard: the frame as the pronunciation hears it, if any."""
        ways = self._ways(frame, state)
        stays = torch.logaddexp(ways.silent, ways.label[:, : self.beam])[..., 0] + state.fused
        grown = ways.label[:, self.beam :, 0] + state.fused.repeat_interleave(self.candidates, dim=1)
        added = self._added(grown, stays, frame, state)
        score, choice = torch.cat([stays, grown + added], dim=1).topk(self.beam, dim=1)
        extended = choice >= self.beam
        source = torch.where(extended, (choice - self.beam) // self.candidates, choice)
        last = torch.cat([state.last, frame.token.repeat(1, self.beam)], dim=1).gather(1, choice)
        length, name = state.length.gather(1, source) + extended, state.name.gather(1, source)
        silent = _take(ways.silent, source).masked_fill(extended[..., None], NEVER)
        weight = torch.stack([silent, _take(ways.label, choice)], dim=2)
        dropped = score < score[:, :1] - self.threshold
        begun = torch.where(extended | ways.begun.gather(1, source), length, 0)
        place = torch.stack([length, torch.zeros_like(length), begun], dim=-1) - 1
        value = torch.stack([last, last, frame.begun.gather(1, last)], dim=-1)
        rows = torch.stack([3 * source, _silent_rows(state).gather(1, source), ways.row.gather(1, choice)], dim=-1)
        new = {
            "trail": _put(_take(state.trail.flatten(1, 2), rows.flatten(1)).view_as(state.trail), place, value),
            "length": length,
            "last": last,
            "name": torch.where(extended, _child(name, last), name),
            "weight": weight.masked_fill(dropped[..., None, None], NEVER),
            "fused": state.fused.gather(1, source) + F.pad(added, (self.beam, 0)).gather(1, choice),
        }
        for field, now in new.items():
            old: Tensor = getattr(state, field)
            old.copy_(now if active is None else torch.where(active.view(-1, *[1] * (old.ndim - 1)), now, old))
        if active is not None:
            extended = extended & active[:, None]
            source = torch.where(active[:, None], source, torch.arange(self.beam, device=source.device))
        if self.scorer:
            self.scorer.advance(state.scorer[0], source, torch.where(extended, last, 0), extended)
        if self.pronunciation and heard is not None:
            own = state.pronunciation[0]
            state.fused.add_(self.pronunciation.advance(own, heard, source, last, extended & ~dropped, active))

    def _added(self, grown: Tensor, stays: Tensor, frame: _Frame, state: BeamState) -> Tensor:
        """What the scorer adds to each extension, (slots, beam * candidates); NEVER where the most it could add would
        not bring it into the beam, so that it is not asked. grown: their scores without it; stays: (slots, beam), of
        the prefixes as they are."""
        if not self.scorer:
            return torch.zeros_like(grown)
        floor = torch.maximum(stays.amin(1), stays.amax(1) - self.threshold)
        hopeful = grown + self.scorer.at_most(frame.token).repeat(1, self.beam) >= floor[:, None]
        slot, way = (hopeful & (grown > NEVER)).nonzero(as_tuple=True)
        prefix, token = way // self.candidates, frame.token[slot, way % self.candidates]
        added = torch.full_like(grown, NEVER)
        added[slot, way] = self.scorer.score(state.scorer[0], slot, prefix, token).to(added)
        return added

    def _ways(self, frame: _Frame, state: BeamState) -> _Ways:
        """A prefix as it is: a blank, or its last token held on, or newly begun by a parent that is in the beam too. An
        extension that leads to a prefix already in the beam is counted there, so not here."""
        n, all_of_it = self.candidates, _any_end(state)
        last_lp = frame.label.gather(1, state.last)
        token, lp = torch.cat([frame.token, state.last], dim=1), torch.cat([frame.value, last_lp], dim=1)
        # to say its last token again a prefix must end in a blank: without one the token is merely held on
        again = state.last[..., None] == token[:, None]
        weight = torch.where(again[..., None], state.weight[:, :, None, BLANK], all_of_it[:, :, None])
        weight = weight + lp[:, None, :, None]  # (slots, beam, n + beam, 2): each prefix and a token more
        own = 3 * torch.arange(self.beam, device=token.device)
        row = torch.where(again, own[:, None] + 1, _silent_rows(state)[..., None])

        parent = _parents(state, all_of_it[..., 1] > NEVER)
        born = weight[:, :, n:].masked_fill(~parent[..., None], NEVER).amax(1)
        held = state.weight[:, :, LABEL] + last_lp[..., None]
        begun = born[..., 1] > held[..., 1]
        label = torch.stack([torch.logaddexp(held[..., 0], born[..., 0]), torch.maximum(held, born)[..., 1]], dim=-1)
        stays = torch.where(begun, (row[:, :, n:] * parent).amax(1), own + 2)

        taken = torch.bmm(parent.float(), again[:, :, :n].float()) > 0
        grown = weight[:, :, :n].masked_fill(taken[..., None], NEVER)
        return _Ways(
            silent=all_of_it + frame.blank[:, None, None],
            label=torch.cat([label, grown.flatten(1, 2)], dim=1),
            row=torch.cat([stays, row[:, :, :n].flatten(1)], dim=1),
            begun=begun,
        )

    def _agree(self, state: BeamState) -> Tensor:
        """How many tail tokens all prefixes share, (slots,); a full tail is cut first, dropping those that disagree."""
        token, dead = state.trail[:, :, 0], state.path.amax(-1) == NEVER
        best = token[torch.arange(len(token), device=token.device), state.score.argmax(1)][:, None]
        same = token == best
        too_long = token[..., -1] != NOTHING
        full = (too_long & ~dead).any(1)
        if bool(full.any()):
            drop = full[:, None] & torch.where(best[..., 0] != NOTHING, ~same[..., 0], too_long)
            state.weight.masked_fill_(drop[..., None, None], NEVER)
            dead = dead | drop
        agreed = (same | dead[..., None]).all(1) & (best[:, 0] != NOTHING)
        return agreed.cumprod(-1).sum(-1)


class _Output:
    """Collects what each slot emits during a step."""

    def __init__(self, state: BeamState, size: int) -> None:
        self.count = torch.zeros_like(state.frames)
        self.trail = state.frames.new_zeros(len(state.frames), 2, size + 1)  # tokens, when; last: discarded

    def take(self, state: BeamState, n: Tensor, keep: bool = False) -> None:
        """Emit the best prefix's first n (slots,) tail tokens, and unless `keep`, cut them off every prefix."""
        position = torch.arange(state.trail.shape[-1], device=n.device)
        place = torch.where(position < n[:, None], self.count[:, None] + position, self.trail.shape[-1] - 1)
        best = state.score.argmax(1, keepdim=True)
        rows = torch.cat([3 * best, _silent_rows(state).gather(1, best)], dim=1)
        self.trail.scatter_(2, place[:, None].expand(-1, 2, -1), _take(state.trail.flatten(1, 2), rows))
        self.count.add_(n)
        if keep:
            return
        later = (position + n[:, None])[:, None, None].expand_as(state.trail)
        state.trail.copy_(F.pad(state.trail, (0, len(position)), value=NOTHING).gather(-1, later))
        state.length.sub_(n[:, None]).clamp_(min=0)
        state.emitted.add_(n)

    def emissions(self) -> tuple[Emissions, Tensor]:
        n = int(self.count.max()) if len(self.count) else 0
        frame, prob = _unpacked(self.trail[:, 1, :n])
        return Emissions(self.trail[:, 0, :n], frame, frame + 1, prob), self.count


def _tokens(state: BeamState, slot: int, k: int) -> tuple[Token, ...]:
    """The tail of a prefix."""
    n, side = int(state.length[slot, k]), int(state.path[slot, k].argmax())
    frame, prob = _unpacked(state.trail[slot, k, 1 + side, :n])
    rows = zip(state.trail[slot, k, 0, :n].tolist(), frame.tolist(), prob.tolist(), strict=True)
    return tuple(Token(t, f, f + 1, p) for t, f, p in rows)


def _any_end(state: BeamState) -> Tensor:
    """Mass and best path of each prefix however it ends, (slots, beam, 2)."""
    blank, label = state.weight.unbind(2)
    return torch.stack([torch.logaddexp(blank, label)[..., 0], torch.maximum(blank, label)[..., 1]], dim=-1)


def _silent_rows(state: BeamState) -> Tensor:
    """Which row of `trail.flatten(1, 2)` is that of each prefix's best alignment, (slots, beam)."""
    own = 3 * torch.arange(state.path.shape[1], device=state.path.device) + 1
    return own + (state.path[..., LABEL] > state.path[..., BLANK])


def _child(name: Tensor, token: Tensor) -> Tensor:
    """The name of a prefix one token longer."""
    return name * FACTOR + (token + 1)


def _parents(state: BeamState, live: Tensor) -> Tensor:
    """(slots, i, j): whether prefix j is prefix i and one token more, both of them `live` (slots, beam)."""
    child = _child(state.name[..., None], state.last[:, None])
    return (child == state.name[:, None]) & live[:, None] & live[..., None]


def _packed(frame: Tensor, prob: Tensor) -> Tensor:
    """When a token begins and its probability there, in one int64."""
    return (frame << 32) + prob.float().view(torch.int32)


def _unpacked(begun: Tensor) -> tuple[Tensor, Tensor]:
    """frame int64, prob float32; 0 or more, so that the parts do not touch."""
    return begun >> 32, begun.to(torch.int32).view(torch.float32)


def _put(trail: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """trail (..., tail) with value (...) at place (...), where that is one of its places."""
    here = torch.arange(trail.shape[-1], device=trail.device) == place[..., None]
    return torch.where(here, value[..., None], trail)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x (slots, n, d) at index (slots, k): (slots, k, d)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _best(state: BeamState, x: Tensor) -> Tensor:
    """x (slots, beam) of the best prefix: (slots,)."""
    return x.gather(1, state.score.argmax(1, keepdim=True))[:, 0]
