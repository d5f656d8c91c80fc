"""Shapes that cannot be are refused where they are written down."""

from __future__ import annotations

import pytest

from vivavoce.speech.config import parse
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.tts.config import AcousticConfig, FlowConfig, VoiceConfig


def test_a_voice_names_its_speaker_among_those_heard() -> None:
    with pytest.raises(BadConfig, match="'c' is not one of a, b"):
        parse(VoiceConfig, {"name": "x", "symbols": 3, "speakers": ["a", "b"], "speaker": "c"}, "here")


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(BadConfig, match="unknown key 'widht'"):
        parse(VoiceConfig, {"name": "x", "symbols": 3, "speakers": ["a"], "speaker": "a", "flow": {"widht": 3}}, "here")


@pytest.mark.parametrize("wrong", [
    lambda: AcousticConfig(width=30, heads=4), lambda: AcousticConfig(kernel=4), lambda: FlowConfig(width=30, heads=4),
    lambda: FlowConfig(chunk=0), lambda: FlowConfig(left=3, chunk=5),
])
def test_shapes_that_cannot_be(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match="must be"):
        wrong()
