"""Many conversations on one model: continuous batching over slots, a budget of tokens a tick, no sockets, no clock.

Callers open a session, extend its prompt while words still arrive (and revise it when they change), ask for a reply and
tick; tokens come out as events. Running replies never wait for somebody's long prompt: each tick feeds every reply its
token and fills what is left of the budget with pieces of prompts (Sarathi-Serve, arXiv 2403.02310).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vivavoce.streaming.engine import Engine, Slot
from vivavoce.streaming.errors import StateMismatch, UnknownSlot, VivaVoceError
from vivavoce.streaming.stage import StageSpec
from vivavoce.streaming.state import State, slots_tensor

from .graphs import DecodeGraphs
from .model import DecoderState, LanguageModel
from .sampling import SamplerState, Sampling, sample


class PromptTooLong(VivaVoceError, ValueError):
    """A prompt that the cache cannot show the model at once."""


class BadToken(VivaVoceError, ValueError):
    """A token that the model's vocabulary does not have."""


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


@dataclass(frozen=True, eq=False)
class EngineState(State):
    decoder: DecoderState
    sampler: SamplerState


@dataclass
class Session:
    """What the host knows of a slot.

    turn: the tokens since the last reply ended, the first `carried` of them left over from it, then the prompt, then
    from `prompt` on the reply; fed: how many of them the cache holds. At least the last one always waits, so that a
    reply begins with scores of the whole prompt at the cost of one token. answered: whether a reply was asked for since
    the prompt last changed; left: tokens it may still have, 0 when none is running; ends: tokens that end it; given:
    its next tokens where they are known rather than drawn.
    """

    request: str
    turn: list[int] = field(default_factory=list)
    carried: int = 0
    prompt: int = 0
    fed: int = 0
    answered: bool = False
    left: int = 0
    ends: tuple[int, ...] = ()
    given: list[int] = field(default_factory=list)

    @property
    def replying(self) -> bool:
        return self.left > 0

    @property
    def feedable(self) -> int:
        return max(0, len(self.turn) - self.fed - (not self.replying))

    def begin_turn(self) -> None:
        """What the cache holds is settled; what it does not is carried over."""
        self.turn, self.fed = self.turn[self.fed :], 0
        self.carried = self.prompt = len(self.turn)
        self.answered = False


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session as a value: open another with it, in this engine or after a restart."""

    state: EngineState
    session: Session

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state.save(folder / "state.safetensors")
        (folder / "session.json").write_text(json.dumps(dataclasses.asdict(self.session)))


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
        self._sessions[slot] = _copy(origin.session, request) if origin else Session(request)
        return slot

    def extend(self, slot: Slot, tokens: Sequence[int]) -> None:
        """More of the prompt; all but the last token is worked on at once. After a reply this begins the next turn, and
        what the cache then holds is settled. Raises UnknownSlot, DoubledRequest while a reply runs, BadToken,
        PromptTooLong; then nothing has changed."""
        session = self._between_replies(slot)
        self._check(slot, session, tokens, len(session.turn), settled=session.fed if session.answered else 0)
        if session.answered:
            session.begin_turn()
        session.turn += tokens
        session.prompt = len(session.turn)

    def revise(self, slot: Slot, tokens: Sequence[int]) -> None:
        """The prompt of this turn, as far as it is known now: what it shares with the one before stays as it is, the
        rest is taken back. After a reply of which nothing was kept this changes the prompt it replied to; after any
        other it begins the next turn. Raises as `extend`, and RollbackTooFar."""
        session = self._between_replies(slot)
        if session.prompt < len(session.turn):
            self.extend(slot, tokens)
            return
        self._check(slot, session, tokens, session.carried)
        turn = [*session.turn[: session.carried], *tokens]
        same = next((i for i, (a, b) in enumerate(zip(session.turn, turn, strict=False)) if a != b),
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
        self._check_tokens(session, given or ())
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
        return Snapshot(self._engine.snapshot(slot), _copy(session, session.request))

    def load(self, folder: Path) -> Snapshot:
        """What `Snapshot.save` wrote. Raises StateMismatch when it is none, or comes from another model or policy."""
        state = self._engine.stage.init_state(1)
        try:
            state.load_file_(folder / "state.safetensors")
            values = json.loads((folder / "session.json").read_text())
            return Snapshot(state, Session(**values | {"ends": tuple(values["ends"])}))
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as e:
            raise StateMismatch(f"{folder} is not a saved session ({e}); give the folder that `save` wrote") from e

    @torch.no_grad()
    def tick(self) -> list[Event]:
        """One batch: a token of every reply, and pieces of prompts as far as the budget goes. Events come in the order
        in which the sessions were opened, failures first."""
        take = self._plan()
        if not take:
            return []
        hidden = self._feed(take)
        for slot, n in take.items():
            self._sessions[slot].fed += n
        ready = [slot for slot in take if self._sessions[slot].replying and not self._sessions[slot].feedable]
        if len(ready) < len(take):
            hidden = hidden[[slot in ready for slot in take]]
        return self._sample(ready, hidden)

    def _feed(self, take: Mapping[Slot, int]) -> Tensor:
        """Work on so many waiting tokens of each slot; (len(take), width), what came of the last one of each."""
        rows, state = [slot.index for slot in take], self._engine.state
        device, policy = state.decoder.cache.length.device, self.model.policy
        first, end = min(rows), max(rows) + 1
        if max(take.values()) == 1 and policy.steady and policy.limit is None and end - first <= 2 * len(rows):
            if self.graphs is not None:
                first, end = 0, state.slots
            tokens, active = [0] * (end - first), [False] * (end - first)
            for slot in take:
                session = self._sessions[slot]
                tokens[slot.index - first], active[slot.index - first] = session.turn[session.fed], True
            if self.graphs is not None:
                hidden = self.graphs(torch.tensor(tokens, device=device), active)
            else:
                x, on = torch.tensor(tokens, device=device), torch.tensor(active, device=device)
                hidden = self.model.decode(x, state.decoder, on, first, every=all(active))
            return hidden if rows == list(range(first, end)) else hidden[[row - first for row in rows]]
        longest = max(take.values())
        tokens, counts = [[0] * longest for _ in range(state.slots)], [0] * state.slots
        for slot, n in take.items():
            session = self._sessions[slot]
            tokens[slot.index][:n] = session.turn[session.fed : session.fed + n]
            counts[slot.index] = n
        x, valid = torch.tensor(tokens, device=device), torch.tensor(counts, device=device)
        hidden, _ = self.model.step(x, state.decoder, valid, valid < 0)
        return hidden[rows, [n - 1 for n in take.values()]]

    def _plan(self) -> dict[Slot, int]:
        """How many tokens each session is fed: running replies first, then prompts somebody waits for, then others."""
        left, take = self.budget, dict[Slot, int]()
        waiting = [(slot, s) for slot, s in self._sessions.items() if s.feedable]
        waiting.sort(key=lambda pair: (not pair[1].replying, pair[1].replying and pair[1].feedable > 1))
        for slot, session in waiting:
            n = min(session.feedable, self.chunk, left)
            if n:
                take[slot], left = n, left - n
        return {slot: take[slot] for slot in self._sessions if slot in take}

    def _sample(self, ready: Sequence[Slot], hidden: Tensor) -> list[Event]:
        if not ready:
            return []
        logits = self.model.decoder.logits(hidden)
        events: list[Event] = []
        if not bool(logits.sum(-1).isfinite().all()):  # a sum is finite only when all its terms are
            finite = logits.isfinite().all(-1)
            events = [self._fail(s) for s, ok in zip(ready, finite.tolist(), strict=True) if not ok]
            logits, ready = logits[finite], [slot for slot in ready if slot in self._sessions]
        for slot, token in zip(ready, self._drawn(logits, ready), strict=True):
            given = self._sessions[slot].given
            events += self._emit(slot, given.pop(0) if given else token)
        return events

    def _drawn(self, logits: Tensor, slots: Sequence[Slot]) -> list[int]:
        if all(self._greedy[slot.index] for slot in slots):  # which neither draw nor look back
            return logits.argmax(-1).tolist()
        index = slots_tensor(*(slot.index for slot in slots)).to(logits.device)
        return sample(logits, self._engine.state.sampler, index).tolist()

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

    def _check(self, slot: Slot, session: Session, tokens: Sequence[int], kept: int, *, settled: int = 0) -> None:
        """Raises for tokens that cannot follow the first `kept` of the turn, when `settled` of those leave it."""
        self._check_tokens(session, tokens)
        policy = self.model.policy
        if policy.limit is None:
            length, room = kept - settled + len(tokens), policy.visible
        else:
            length, room = kept + len(tokens), policy.limit - self._length(slot) + session.fed
        if length > room:
            raise PromptTooLong(
                f"{session.request!r}: a prompt of {length} tokens does not fit the {room} that the cache can still "
                "show; shorten it, or open the engine with a longer cache"
            )

    def _check_tokens(self, session: Session, tokens: Sequence[int]) -> None:
        vocabulary = self.model.decoder.config.vocabulary
        wrong = next((t for t in tokens if not 0 <= t < vocabulary), None)
        if wrong is not None:
            raise BadToken(
                f"{session.request!r}: token {wrong} is not among the model's 0 to {vocabulary - 1}; the tokenizer "
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


def _copy(session: Session, request: str) -> Session:
    return dataclasses.replace(session, request=request, turn=list(session.turn), given=list(session.given))
