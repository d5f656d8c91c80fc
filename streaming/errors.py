"""The root of the project's error tree, and the errors of streaming itself.

Every error a user can cause is a `VivaVoceError`; its text names the input and says what to do next.
"""

from __future__ import annotations


class VivaVoceError(Exception):
    """Anything the caller can put right. Programming mistakes raise the built-in errors instead."""


class StateMismatch(VivaVoceError, ValueError):
    """Two states do not come from the same model configuration."""


class BadLookahead(VivaVoceError, ValueError):
    """A lookahead that is no number, or outside what the model was built for."""


class Full(VivaVoceError, RuntimeError):
    """Every slot of an engine is taken; try again when a session has ended."""


class UnknownSlot(VivaVoceError, KeyError):
    """The slot was closed (and perhaps given to another session), or its stream has ended."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""
