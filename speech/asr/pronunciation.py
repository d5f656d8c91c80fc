"""Weighs a beam's words by how they are said: each finished word's phones are laid along the frames it was heard in.

The beam's second opinion, hybrid decoding's way (Bourlard & Morgan 1994) on the same encoder: pieces come from CTC,
phones of words from the dictionary, and what each frame holds from `PhoneHead`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.speech.tts.pronounce import ways_to_say
from vivavoce.streaming.state import State

from .phones import CLASS, CLASSES, LABELS_A_FRAME, SILENCE
from .words import SPACE

WEIGHT = 0.25
# Nats that the right phones are expected to lack of what the head expects itself to find: it is too sure of a voice
# that it does not know. The frames of a word not yet finished count as if they lacked just that.
LACK = 0.4
WINDOW = 64  # labels of 40 ms that a word and the silence around it may last
PATIENCE = 16  # frames without a piece after which a word is over
LONGEST = 16  # pieces of a word that are looked at
NEVER = -1e9  # instead of minus infinity, of which differences are taken
WORST = 60.0  # nats that one word can cost


@dataclass(frozen=True, eq=False)
class PronunciationState(State):
    """heard: (slots, WINDOW, CLASSES) float32, what the last labels say of each phone, in nats around 0. ends: (slots,
    beam, WINDOW) float32, how well the finished words of a prefix fit where they and silence end with each label,
    beside the best of these. word: (slots, beam, LONGEST) int64, the pieces of the word that is open, -1 after them;
    pieces: (slots, beam) their number, 0 where none is open; since: (slots, beam) frames since the last."""

    heard: Tensor
    ends: Tensor
    word: Tensor
    pieces: Tensor
    since: Tensor


class Pronunciation:
    """What a word adds to its prefix once the next begins, the stream ends, or it has been quiet for a while, and what
    silence does, frame by frame, where no word is open.

    A word's phones follow each other, each for one label or more, after where the words before it ended, and silence
    may follow; the best way counts (Viterbi), over all ways the dictionary has to say the word. All of it goes frame
    by frame, and only prefixes that finish a word are computed.
    """

    def __init__(self, head: Callable[[Tensor], Tensor], pieces: Sequence[str], weight: float = WEIGHT) -> None:
        """head: `PhoneHead`, or what gives the same of frames; pieces: the vocabulary by token id."""
        self.head, self.pieces, self.weight = head, tuple(pieces), weight
        classes_of("")  # so that the dictionary is read now, not when somebody's first word is over
        self.begins = torch.tensor([*(piece.startswith(SPACE) for piece in pieces), False])  # the blank begins nothing

    def init_state(self, slots: int, beam: int, device: torch.device | str = "cpu") -> PronunciationState:
        pieces = torch.zeros(slots, beam, dtype=torch.int64, device=device)
        ends = torch.full((slots, beam, WINDOW), NEVER, device=device)
        ends[..., -1] = 0.0  # nothing was said, and that ends now
        return PronunciationState(
            heard=torch.zeros(slots, WINDOW, CLASSES, device=device),
            ends=ends,
            word=pieces.new_full((slots, beam, LONGEST), -1),
            pieces=pieces,
            since=pieces.clone(),
        )

    def hear(self, x: Tensor) -> Tensor:
        """Encoder frames (slots, T, width) to what each label says of each phone: (slots, T, LABELS_A_FRAME, CLASSES)
        nats more than the head expects of the right one."""
        log_prob = self.head(x).float()
        return log_prob - (log_prob.exp() * log_prob).sum(-1, keepdim=True) + LACK

    def advance(
        self, state: PronunciationState, label: Tensor, source: Tensor, token: Tensor, extended: Tensor,
        active: Tensor | None,
    ) -> Tensor:
        """One frame. Prefix k now descends from prefix source[k], and where extended[k], by token[k].

        label: (slots, LABELS_A_FRAME, CLASSES), the frame's part of `hear`; source, token, extended: (slots, beam);
        active: (slots,), None for all. Returns what is added to each prefix, (slots, beam) float32.
        """
        heard = torch.cat([state.heard[:, LABELS_A_FRAME:], label], dim=1)
        quiet = state.ends[..., -1:] + label[:, None, :, SILENCE].cumsum(-1)
        before = torch.cat([state.ends[..., LABELS_A_FRAME:], quiet], dim=-1)
        ends = before.gather(1, source[..., None].expand_as(before))
        word = state.word.gather(1, source[..., None].expand_as(state.word))
        pieces, since = state.pieces.gather(1, source), state.since.gather(1, source) + 1

        begins = extended & self.begins.to(token.device)[token]
        over = (begins | (~extended & (since > PATIENCE))) & (pieces > 0)
        if active is not None:
            over = over & active[:, None]
        added = torch.zeros_like(ends[..., 0])
        if bool(over.any()):
            # prefixes of one parent finish the same word
            beam = source.shape[1]
            row = source + beam * torch.arange(len(source), device=source.device)[:, None]
            parent, which = row[over].unique(return_inverse=True)
            after = self._after(heard, parent // beam, before.flatten(0, 1)[parent], state.word.flatten(0, 1)[parent])
            best = after.amax(-1)
            ends[over] = (after - best[:, None])[which]
            added[over] = (self.weight * best.clamp(min=-WORST))[which]

        pieces = pieces.masked_fill(over | begins, 0)
        # where no word is open there is silence: it counts at once, or saying nothing would be worth less than any word
        rests = pieces == 0 if active is None else (pieces == 0) & active[:, None]
        best = ends.amax(-1).masked_fill(~rests, 0.0)
        ends, added = ends - best[..., None], added + self.weight * best.clamp(min=-WORST)
        place = torch.arange(LONGEST, device=word.device)
        here = (extended & (pieces < LONGEST))[..., None] & (place == pieces[..., None])
        now = {
            "heard": heard,
            "ends": ends,
            "word": torch.where(here, token[..., None], word.masked_fill(place >= pieces[..., None], -1)),
            "pieces": pieces + here.any(-1),
            "since": since.masked_fill(extended, 0),
        }
        for field, value in now.items():
            old: Tensor = getattr(state, field)
            old.copy_(value if active is None else torch.where(active.view(-1, *[1] * (old.ndim - 1)), value, old))
        return added

    def finish(self, state: PronunciationState) -> Tensor:
        """What the end of the stream adds to each prefix, (slots, beam): its words must then end with the sound."""
        ends = state.ends.clone()
        slot, prefix = (state.pieces > 0).nonzero(as_tuple=True)
        if len(slot):
            ends[slot, prefix] = self._after(state.heard, slot, ends[slot, prefix], state.word[slot, prefix])
        return self.weight * ends[..., -1].clamp(min=-WORST)

    def _after(self, heard: Tensor, slot: Tensor, ends: Tensor, word: Tensor) -> Tensor:
        """`ends` (n, WINDOW) of prefixes after one word more, which is word (n, LONGEST), heard in slot (n,)."""
        said = [self._said(tuple(p for p in row if p >= 0)) for row in word.tolist()]
        ways = [(i, way) for i, known in enumerate(said) for way in known]
        if not ways:
            return ends
        own = torch.tensor([i for i, _ in ways], device=ends.device)
        most = max(len(way) for _, way in ways)
        # silence after the phones; what fills up shorter rows changes nothing
        rows = [(*way, *[-1] * (most - len(way)), SILENCE) for _, way in ways]
        phones = torch.tensor(rows, device=ends.device)
        # what each phone gathers from the window's beginning on, (most + 1, ways, WINDOW)
        until = heard.cumsum(1).transpose(1, 2)[slot[own], phones.T.clamp(min=0)]
        some, now = (phones.T >= 0)[..., None], ends[own]
        for k in range(most + 1):
            # a phone that ends with label t began after some label before t, the best of them
            then = torch.full_like(now, NEVER)
            torch.add((now - until[k])[:, :-1].cummax(-1).values, until[k, :, 1:], out=then[:, 1:])
            # silence may be none
            now = torch.maximum(then, now) if k == most else torch.where(some[k], then, now)
        best = torch.full_like(ends, NEVER).scatter_reduce_(0, own[:, None].expand_as(now), now, "amax")
        nothing_to_say = torch.tensor([not known for known in said], device=ends.device)
        return torch.where(nothing_to_say[:, None], ends, best)

    def _said(self, word: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return classes_of("".join(self.pieces[p] for p in word).replace(SPACE, ""))


@functools.lru_cache(1 << 16)
def classes_of(word: str) -> tuple[tuple[int, ...], ...]:
    """The ways to say a word as classes of `PhoneHead`; none for a word without a letter."""
    plain = (tuple(CLASS[phone.rstrip("012")] for phone in way) for way in ways_to_say(word))
    return tuple(dict.fromkeys(plain))
