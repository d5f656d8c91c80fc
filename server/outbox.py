"""Where the parts of a conversation put what is to go out: events for the client, actions for the rooms, in order."""

from __future__ import annotations

from collections.abc import Sequence

from vivavoce.streaming.errors import VivaVoceError

from .events import Error, ErrorInfo, ServerEvent
from .signals import Action

Output = ServerEvent | Action


class Problem(VivaVoceError, ValueError):
    """A client's event that cannot be carried out. code, param: as the protocol's `error` has them."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class Outbox:
    """Also hands out the session's names and numbers, none of them twice. prefix: what tells its names from
    another session's."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._outputs: list[Output] = []
        self._events = self._names = self._numbers = 0

    def put(self, output: Output) -> None:
        if isinstance(output, ServerEvent):
            self._events += 1
            output.event_id = f"event_{self._events}"
        self._outputs.append(output)

    def refuse(self, problem: Problem, event_id: str | None = None) -> None:
        info = ErrorInfo(code=problem.code, message=str(problem), param=problem.param, event_id=event_id)
        self.put(Error(error=info))

    def take(self) -> Sequence[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def name(self, kind: str) -> str:
        """`item_<prefix>_1`, `resp_<prefix>_2`, ..."""
        self._names += 1
        return f"{kind}_{self._prefix}_{self._names}"

    def owns(self, name: str) -> bool:
        """Whether it may be one of the names handed out."""
        return f"_{self._prefix}_" in name

    def number(self) -> int:
        """Of a stream, watch, reply or speech."""
        self._numbers += 1
        return self._numbers
