"""What goes in and what comes out are values, and the two are not mixed up."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import get_args

import pytest

from vivavoce.server import signals


def test_inputs_and_actions_have_nothing_in_common() -> None:
    assert not set(get_args(signals.Input)) & set(get_args(signals.Action))


def test_they_do_not_change() -> None:
    said = signals.Said(1, "so")
    with pytest.raises(FrozenInstanceError):
        said.text = "no"  # type: ignore[misc]
    assert said == signals.Said(1, "so")
