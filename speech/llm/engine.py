"""Many conversations on one model: continuous batching over slots, a budget of tokens a tick, no sockets, no clock.

Callers open a session, extend its prompt while words still arrive (and revise it when they change), ask for a reply and
tick; tokens come out as events. Running replies never wait for somebody's long prompt: each tick feeds every reply its
token and fills what is left of the budget with pieces of prompts (Sarathi-Serve, arXiv 2403.02310). Prompts are tokens
and embeddings, in any order: projected encoder frames stand among words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import UnknownSlot, VivaVoceError
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import slots_tensor

from .graphs import DecodeGraphs
from .model import LanguageModel
from .sampling import SamplerState, Sampling, sample
from .session import EngineState, Item, Session, Snapshot, equal


class PromptTooLong(VivaVoceError, ValueError):
    """A prompt that the cache cannot show the model at once."""


class BadToken(VivaVoceError, ValueError):
    """A token that the model's vocabulary does not have, or an embedding that is not of its width."""


class DoubledRequest(VivaVoceError, ValueError):
    """A session, or a reply, that was asked for while it is already there."""


class NotFinite(VivaVoceError, ArithmeticError):
    """The model gave scores that are not numbers."""


@dataclass(frozen=True)
class Token:
    """One more token of a reply, the one that ends it included."""

    slot: Slot
    request: str
    token: int


@dataclass(frozen=True)
class Finished:
    """A reply is over: by a token that ends it, at its length, or because a cache that drops nothing is full. The
    session stays open."""

    slot: Slot
    request: str
    reason: Literal["end", "length", "full"]


@dataclass(frozen=True)
class Failed:
    """A session could not go on and was closed; the others did."""

    slot: Slot
    request: str
    error: VivaVoceError


Event = Token | Finished | Failed


class LlmEngine:
    """model: what to run; slots: how many sessions fit at once; budget: the most tokens a tick feeds; chunk: the most
    of one prompt in a tick."""

    def __init__(self, model: LanguageModel, slots: int, *, budget: int = 256, chunk: int = 128) -> None:
        if budget < slots or chunk < 1:
            raise ValueError(f"a budget of {budget} does not feed {slots} replies a token each, or chunk is under 1")
        self.model, self.budget, self.chunk = model, budget, chunk
        self._engine: Engine[EngineState] = Engine(_Whole(model), slots)
        self._greedy = [True] * slots
        self._sessions: dict[Slot, Session] = {}
        state = self._engine.state.decoder
        able = model.policy.steady and model.policy.limit is None and state.cache.length.is_cuda
        self.graphs = DecodeGraphs(model, state) if able else None

    @property
    def free(self) -> int:
        return self._engine.free

    @property
    def idle(self) -> bool:
        """Whether a tick would do nothing."""
        return not any(s.feedable for s in self._sessions.values())

    def open(self, request: str, *, sampling: Sampling | None = None, like: Slot | Snapshot | None = None) -> Slot:
        """Start a session named `request`: fresh, or going on from where another stands, so that a shared prompt is
        computed once. sampling: fresh settings and random numbers; without, those of `like`.

        Raises Full, DoubledRequest, UnknownSlot, StateMismatch.
        """
        if any(s.request == request for s in self._sessions.values()):
            raise DoubledRequest(f"a session {request!r} is already open; close it, or give this one another name")
        origin = self.snapshot(like) if isinstance(like, Slot) else like
        slot = self._engine.open(snapshot=origin.state if origin else None)
        if sampling is not None or origin is None:
            self._engine.state.sampler.set_(slot.index, sampling or Sampling())
        self._greedy[slot.index] = not self._engine.state.sampler.temperature[slot.index]
        self._sessions[slot] = origin.session.copy(request) if origin else Session(request)
        return slot

    def extend(self, slot: Slot, items: Sequence[Item] | Tensor) -> None:
        """More of the prompt: tokens, embeddings, or a tensor (n, width) of those; all but the last item is worked on
        at once. After a reply this begins the next turn, and what the cache then holds is settled. Raises UnknownSlot,
        DoubledRequest while a reply runs, BadToken, PromptTooLong; then nothing has changed."""
        session, items = self._between_replies(slot), list(items)
        self._check(slot, session, items, len(session.turn), settled=session.fed if session.answered else 0)
        if session.answered:
            session.begin_turn()
        session.turn += items
        session.prompt = len(session.turn)

    def revise(self, slot: Slot, items: Sequence[Item] | Tensor) -> None:
        """The prompt of this turn, as far as it is known now: what it shares with the one before stays as it is, the
        rest is taken back. After a reply of which nothing was kept this changes the prompt it replied to; after any
        other it begins the next turn. Raises as `extend`, and RollbackTooFar."""
        session, items = self._between_replies(slot), list(items)
        if session.prompt < len(session.turn):
            self.extend(slot, items)
            return
        self._check(slot, session, items, session.carried)
        turn = [*session.turn[: session.carried], *items]
        same = next((i for i, (a, b) in enumerate(zip(session.turn, turn, strict=False)) if not equal(a, b)),
                    min(len(session.turn), len(turn)))  # fmt: skip
        self._take_back(slot, session, min(same, len(turn) - 1))
        session.turn, session.prompt, session.answered = turn, len(turn), False

    def reply(
        self,
        slot: Slot,
        *,
        max_tokens: int = 256,
        ends: Sequence[int] | None = None,
        given: Sequence[int] | None = None,
    ) -> None:
        """The prompt is complete: sample from here on. ends: tokens that end the reply, the model's own by default;
        given: what to say first instead of drawing it, perhaps up to the end.
        Raises UnknownSlot, DoubledRequest, PromptTooLong when a cache that drops nothing is full, and ValueError when
        there is no prompt."""
        session = self._between_replies(slot)
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it takes 1 or more")
        if not session.turn:
            raise ValueError(f"{session.request!r} has no prompt to reply to; extend it first")
        limit = self.model.policy.limit
        if limit is not None and self._length(slot) + len(session.turn) - session.fed > limit:
            raise PromptTooLong(
                f"{session.request!r}: its cache of {limit} tokens is full; take tokens back, or open the engine with "
                "a longer cache"
            )
        self._check_items(session, given or ())
        session.prompt, session.answered, session.given = len(session.turn), True, list(given or ())
        session.left, session.ends = max_tokens, self.model.decoder.config.ends if ends is None else tuple(ends)

    def cancel(self, slot: Slot, *, keep: int | None = None) -> None:
        """Stop the reply. keep: how many of its tokens stay in the session's memory (what was heard), None for all.
        After a reply has ended this shortens it. Raises UnknownSlot, and RollbackTooFar with the reply stopped."""
        session = self._session(slot)
        session.left = 0
        if keep is not None and session.prompt + keep < len(session.turn):
            length = session.prompt + max(0, keep)
            self._take_back(slot, session, min(session.fed, length - 1))
            session.turn = session.turn[:length]

    def waiting(self, slot: Slot) -> int:
        """How many tokens of the session ticks have still to work on. Raises UnknownSlot."""
        return self._session(slot).feedable

    def close(self, slot: Slot) -> None:
        """Raises UnknownSlot."""
        self._session(slot)
        del self._sessions[slot]
        self._engine.close(slot)

    def snapshot(self, slot: Slot) -> Snapshot:
        session = self._session(slot)
        return Snapshot(self._engine.snapshot(slot), session.copy(session.request))

    def load(self, folder: Path) -> Snapshot:
        """What `Snapshot.save` wrote. Raises StateMismatch when it is none, or comes from another model or policy."""
        return Snapshot.load(folder, self._engine.stage.init_state(1))

    @torch.inference_mode()  # what is kept is written in place, into tensors that were made outside
    def tick(self) -> list[Event]:
        """One batch (and one more when some sessions are at embeddings): a token of every reply, and pieces of prompts
        as far as the budget goes. Events come in the order in which the sessions were opened."""
        take = self._plan()
        if not take:
            return []
        kinds: tuple[dict[Slot, int], dict[Slot, int]] = ({}, {})
        for slot, n in take.items():
            kinds[isinstance(self._sessions[slot].next, Tensor)][slot] = n
        parts = [self._feed(kind) for kind in kinds if kind]
        hidden = parts[0]
        if len(parts) > 1:
            place = {slot: i for i, slot in enumerate((*kinds[0], *kinds[1]))}
            hidden = torch.cat(parts)[[place[slot] for slot in take]]
        for slot, n in take.items():
            self._sessions[slot].fed += n
        ready = [slot for slot in take if self._sessions[slot].replying and not self._sessions[slot].feedable]
        if len(ready) < len(take):
            hidden = hidden[[slot in ready for slot in take]]
        return self._sample(ready, hidden)

    def _feed(self, take: Mapping[Slot, int]) -> Tensor:
        """Work on so many waiting items of each slot, all of one kind; (len(take), width), what came of the last one
        of each."""
        rows, policy = [slot.index for slot in take], self.model.policy
        first, end = min(rows), max(rows) + 1
        if max(take.values()) == 1 and policy.steady and policy.limit is None and end - first <= 2 * len(rows):
            return self._feed_singles(take, first, end)
        counts = [0] * self._engine.state.slots
        for slot, n in take.items():
            counts[slot.index] = n
        decoder = self._engine.state.decoder
        valid = torch.tensor(counts, device=decoder.cache.length.device)
        hidden, _ = self.model.step(self._next(take, 0, len(counts)), decoder, valid, valid < 0)
        return hidden[rows, [n - 1 for n in take.values()]]

    def _feed_singles(self, take: Mapping[Slot, int], first: int, end: int) -> Tensor:
        decoder, rows = self._engine.state.decoder, [slot.index for slot in take]
        tokens = not isinstance(self._sessions[next(iter(take))].next, Tensor)
        if graphs := self.graphs if tokens else None:
            first, end = 0, self._engine.state.slots
        x = self._next(take, first, end)[:, 0]
        active = [False] * (end - first)
        for row in rows:
            active[row - first] = True
        if graphs is not None:
            hidden = graphs(x, active)
        else:
            some = None if all(active) else torch.tensor(active, device=x.device)
            hidden = self.model.decode(x, decoder, some, first)
        return hidden if rows == list(range(first, end)) else hidden[[row - first for row in rows]]

    def _next(self, take: Mapping[Slot, int], first: int, end: int) -> Tensor:
        """What is fed to the slots from `first` on: (n, longest) tokens, or (n, longest, width) embeddings."""
        longest, weight = max(take.values()), self.model.decoder.embed.weight
        rows: list[list[Any]] = [[] for _ in range(end - first)]
        for slot, n in take.items():
            session = self._sessions[slot]
            rows[slot.index - first] = session.turn[session.fed : session.fed + n]
        if isinstance(self._sessions[next(iter(take))].next, int):
            return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=weight.device)
        x = weight.new_zeros(end - first, longest, weight.shape[1])
        for to, row in zip(x, rows, strict=True):
            for at, item in zip(to, row, strict=False):
                at.copy_(item)
        return x

    def _plan(self) -> dict[Slot, int]:
        """How many tokens each session is fed: running replies first, then prompts somebody waits for, then others."""
        left, take = self.budget, dict[Slot, int]()
        waiting = [(slot, s) for slot, s in self._sessions.items() if s.feedable]
        waiting.sort(key=lambda pair: (not pair[1].replying, pair[1].replying and pair[1].feedable > 1))
        for slot, session in waiting:
            n = min(session.feedable, self.chunk, left)
            if n:
                take[slot] = session.alike(n)
                left -= take[slot]
        return {slot: take[slot] for slot in self._sessions if slot in take}

    def _sample(self, ready: Sequence[Slot], hidden: Tensor) -> list[Event]:
        if not ready:
            return []
        logits = self.model.decoder.logits(hidden)
        highest = logits.max(-1)  # which is not finite where any score is no number
        sound = [math.isfinite(x) for x in highest.values.tolist()]
        drawn, events = highest.indices.tolist(), list[Event]()
        fine = [i for i, ok in enumerate(sound) if ok]
        if not all(self._greedy[ready[i].index] for i in fine):  # those neither draw nor look back
            index = slots_tensor(*(ready[i].index for i in fine)).to(logits.device)
            for i, token in zip(fine, sample(logits[fine], self._engine.state.sampler, index).tolist(), strict=True):
                drawn[i] = token
        for slot, token, ok in zip(ready, drawn, sound, strict=True):
            if not ok:
                events.append(self._fail(slot))
                continue
            given = self._sessions[slot].given
            events += self._emit(slot, given.pop(0) if given else token)
        return events

    def _emit(self, slot: Slot, token: int) -> list[Event]:
        session, limit = self._sessions[slot], self.model.policy.limit
        session.turn.append(token)
        session.left -= 1
        events: list[Event] = [Token(slot, session.request, token)]
        reason: Literal["end", "length", "full"] | None = None
        if token in session.ends:
            reason = "end"
        elif not session.left:
            reason = "length"
        elif limit is not None and self._length(slot) >= limit:
            reason = "full"
        if reason:
            session.left = 0
            events.append(Finished(slot, session.request, reason))
        return events

    def _fail(self, slot: Slot) -> Failed:
        request = self._sessions[slot].request
        self.close(slot)
        return Failed(slot, request, NotFinite(
            f"{request!r}: the model's scores are not finite; its weights or the embeddings given are broken, or "
            "float16 overflowed (use bfloat16 or float32); the session was closed"))  # fmt: skip

    def _take_back(self, slot: Slot, session: Session, fed: int) -> None:
        """Let the cache hold no more than the first `fed` tokens of the turn."""
        fed = max(fed, 0)
        if fed < session.fed:
            count = torch.zeros_like(self._engine.state.decoder.cache.length)
            count[slot.index] = session.fed - fed
            self._engine.state.decoder.cache.rollback(self.model.policy, count)
            session.fed = fed

    def _check(self, slot: Slot, session: Session, items: Sequence[Item], kept: int, *, settled: int = 0) -> None:
        """Raises for tokens that cannot follow the first `kept` of the turn, when `settled` of those leave it."""
        self._check_items(session, items)
        policy = self.model.policy
        if policy.limit is None:
            length, room = kept - settled + len(items), policy.visible
        else:
            length, room = kept + len(items), policy.limit - self._length(slot) + session.fed
        if length > room:
            raise PromptTooLong(
                f"{session.request!r}: a prompt of {length} tokens does not fit the {room} that the cache can still "
                "show; shorten it, or open the engine with a longer cache"
            )

    def _check_items(self, session: Session, items: Sequence[Item]) -> None:
        vocabulary, shape = self.model.decoder.config.vocabulary, (self.model.decoder.config.width,)
        for item in items:
            if isinstance(item, Tensor):
                if item.shape != shape or not item.is_floating_point():
                    raise BadToken(
                        f"{session.request!r}: an embedding of shape {tuple(item.shape)}, {item.dtype}; the model "
                        f"takes {shape[0]} real numbers, so put the encoder's frames through a Projector first"
                    )
            elif not 0 <= item < vocabulary:
                raise BadToken(
                    f"{session.request!r}: token {item} is not among the model's 0 to {vocabulary - 1}; the tokenizer "
                    "belongs to another model, or the model's vocabulary is still to be extended"
                )

    def _length(self, slot: Slot) -> int:
        return int(self._engine.state.decoder.cache.length[slot.index])

    def _session(self, slot: Slot) -> Session:
        if slot not in self._sessions:
            raise UnknownSlot(f"{slot} is not open; it was closed, or failed, or belongs to another engine")
        return self._sessions[slot]

    def _between_replies(self, slot: Slot) -> Session:
        session = self._session(slot)
        if session.replying:
            raise DoubledRequest(f"{session.request!r} is replying; wait until it has finished, or cancel it first")
        return session


class _Whole:
    """The model with its samplers, as the stage whose slots the engine hands out."""

    spec = StageSpec(Fraction(1), Fraction(1))

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def init_state(self, slots: int) -> EngineState:
        decoder = self._model.init_state(slots)
        return EngineState(decoder, SamplerState.empty(slots, decoder.cache.length.device))

    def step(
        self, x: Tensor, state: EngineState, valid: Tensor, final: Tensor, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        return self._model.step(x, state.decoder, valid, final, lookahead)
