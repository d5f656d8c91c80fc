"""The streaming errors are one tree, and each is also the built-in error a caller would expect."""

from __future__ import annotations

import pytest

from vivavoce.streaming.errors import BadLookahead, Full, StateMismatch, UnknownSlot, VivaVoceError

BUILTIN = {StateMismatch: ValueError, BadLookahead: ValueError, Full: RuntimeError, UnknownSlot: KeyError}


@pytest.mark.parametrize(("error", "builtin"), BUILTIN.items())
def test_each_is_a_vivavoce_error_and_a_builtin_one(error: type[VivaVoceError], builtin: type[Exception]) -> None:
    assert issubclass(error, VivaVoceError)
    assert issubclass(error, builtin)


@pytest.mark.parametrize("error", [StateMismatch, BadLookahead, Full, UnknownSlot])
def test_the_text_is_what_was_said_without_quotes(error: type[VivaVoceError]) -> None:
    assert str(error("slot 3 is not open")) == "slot 3 is not open"


def test_a_programming_mistake_is_not_one() -> None:
    assert not issubclass(TypeError, VivaVoceError)
    assert VivaVoceError.__bases__ == (Exception,)
