"""What a streaming stage is: fixed rates, an explicit state, and one `step`.

Offline is `step` over everything with fresh state; there is no second code path.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

from torch import Tensor

from .state import State

X_contra = TypeVar("X_contra", contravariant=True)
Y_co = TypeVar("Y_co", covariant=True)
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class StageSpec:
    """Rates and chunking of a stage.

    in_hz, out_hz: items a second in and out.
    chunk: 0 when a step takes any number of items; otherwise a step takes whole chunks of `chunk * (lookahead + 1)`
        items (fewer only where the stream ends).
    head: how many items of the first chunk lie before the stream's start; they are given as zeros.
    """

    in_hz: Fraction
    out_hz: Fraction
    chunk: int = 0
    head: int = 0

    def chunk_items(self, lookahead: int) -> int:
        """Items in one chunk at lookahead R (in output frames of a chunked stage)."""
        return self.chunk * (lookahead + 1)


class Stage(Protocol[X_contra, Y_co, S]):
    """Features, encoder, decoder, backbone, flow, vocoder: each is one of these.

    `step` takes x (slots, n, ...), of which the first `valid[i]` items of row i count, and `final` (slots,), true
    where the row's stream ends with this step so that everything held back comes out. It returns y (slots, m, ...) and
    how many items of each row of y count, (slots,). A row with valid 0 and final False leaves its state untouched.
    `lookahead` R is shared by the rows of one step; a stage without chunks ignores it.
    """

    @property
    def spec(self) -> StageSpec: ...
    def init_state(self, slots: int) -> S: ...
    def step(self, x: X_contra, state: S, valid: Tensor, final: Tensor, lookahead: int = 0) -> tuple[Y_co, Tensor]: ...
