"""What the engine's host side knows of a session, and a whole session as a value.

engine.py keeps one `Session` a slot beside the tensors; a `Snapshot` is both, in memory or in a folder.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vivavoce.streaming.errors import StateMismatch
from vivavoce.streaming.state import State

from .model import DecoderState
from .sampling import SamplerState

STATE, SESSION, EMBEDDINGS = "state.safetensors", "session.json", "embeddings.safetensors"  # a saved session

Item = int | Tensor
"""One place of a prompt: a token, or an embedding (width,)."""


@dataclass(frozen=True, eq=False)
class EngineState(State):
    decoder: DecoderState
    sampler: SamplerState


@dataclass
class Session:
    """What the host knows of a slot.

    turn: the items since the last reply ended, the first `carried` of them left over from it, then the prompt, then
    from `prompt` on the reply; fed: how many of them the cache holds. At least the last one always waits, so that a
    reply begins with scores of the whole prompt at the cost of one token. answered: whether a reply was asked for since
    the prompt last changed; left: tokens it may still have, 0 when none is running; ends: tokens that end it; given:
    its next tokens where they are known rather than drawn.
    """

    request: str
    turn: list[Item] = field(default_factory=list)
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
    def next(self) -> Item:
        return self.turn[self.fed]

    @property
    def feedable(self) -> int:
        return max(0, len(self.turn) - self.fed - (not self.replying))

    def alike(self, most: int) -> int:
        """How many of the next `most` items are all tokens, or all embeddings."""
        kinds = [isinstance(item, Tensor) for item in self.turn[self.fed : self.fed + most]]
        return kinds.index(not kinds[0]) if (not kinds[0]) in kinds else most

    def copy(self, request: str) -> Session:
        """The same under another name."""
        return dataclasses.replace(self, request=request, turn=list(self.turn), given=list(self.given))

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
        self.state.save(folder / STATE)
        values, turn = dataclasses.asdict(self.session), self.session.turn
        values["turn"] = [None if isinstance(item, Tensor) else item for item in turn]
        save_file({str(i): item for i, item in enumerate(turn) if isinstance(item, Tensor)}, folder / EMBEDDINGS)
        (folder / SESSION).write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path, state: EngineState) -> Snapshot:
        """state: of one slot, to be written. Raises StateMismatch."""
        try:
            state.load_file_(folder / STATE)
            values = json.loads((folder / SESSION).read_text())
            embeddings = load_file(folder / EMBEDDINGS)
            turn = [embeddings[str(i)] if item is None else item for i, item in enumerate(values["turn"])]
            return cls(state, Session(**values | {"ends": tuple(values["ends"]), "turn": turn}))
        except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as e:
            raise StateMismatch(f"{folder} is not a saved session ({e}); give the folder that `save` wrote") from e


def equal(a: Item, b: Item) -> bool:
    """Whether two places of a prompt hold the same."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return a == b
