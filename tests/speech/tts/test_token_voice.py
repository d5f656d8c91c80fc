"""A voice of tokens: a synthesizer speaks with it as with any other, and parts of different trainings are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from small_converter import TOKENS, make_converter
from small_voice import make_voice

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.tts.phones import IDS, SYMBOLS, encode
from vivavoce.speech.tts.synthesizer import Synthesizer
from vivavoce.speech.tts.token_voice import TokenVoice, TokenVoiceConfig, share
from vivavoce.speech.tts.voice import Voice
from vivavoce.speech.tts.writer import WriterConfig

PHONES = encode(["HH", "AH0", "L", "OW1", ",", "DH", "EH1", "R", "."])


def make_token_voice(voice: Voice | None = None) -> TokenVoice:
    planner = make_converter().planner
    fingerprint = planner.config.fingerprint
    config = WriterConfig(len(SYMBOLS), TOKENS.codes, fingerprint, width=16, hidden=24, layers=1, heads=2)
    torch.manual_seed(1)
    made = TokenVoice(TokenVoiceConfig("small-tokens", "../voice", config, planner.config), voice or make_voice())
    made.planner.load_state_dict(planner.state_dict())
    return made.eval().requires_grad_(False)


def test_a_plan_has_four_frames_a_token_and_gives_them_to_the_phones() -> None:
    plan = make_token_voice().plan(PHONES)
    assert len(plan.frames) % 4 == 0
    assert sum(plan.durations) == len(plan.frames)
    assert len(plan.durations) == len(PHONES)
    assert plan.durations[4] == plan.durations[8] == 0  # separators
    assert torch.equal(plan.frames, make_token_voice().plan(PHONES).frames)
    assert len(make_token_voice().plan(PHONES, rate=2.0).frames) == round(len(plan.frames) / 2)


def test_frames_are_dealt_out_evenly() -> None:
    sounding, silent = IDS["AA1"], IDS[","]
    assert share([sounding, silent, sounding], 7) == [4, 0, 3]
    assert share([silent, silent], 5) == [2, 3]
    assert share([sounding] * 3, 0) == [0, 0, 0]


def test_a_synthesizer_speaks_with_it_word_by_word_as_at_once() -> None:
    text = "The ship had been at sea for seven days. Nobody slept."
    synthesizer = Synthesizer(make_token_voice())
    whole = synthesizer.speak(text)
    slot, pcm = synthesizer.open(), list[torch.Tensor]()
    for word in text.split():
        synthesizer.push(slot, f"{word} ")
        pcm += [speech.pcm for speech in synthesizer.step().values()]
    synthesizer.finish(slot)
    while speech := synthesizer.step().get(slot):
        pcm.append(speech.pcm)
        if speech.done:
            break
    assert float((torch.cat(pcm) - whole.pcm).abs().max()) < 1e-4
    assert [word.word for word in whole.words] == text.split()
    ends = [word.end_sample for word in whole.words]
    assert ends == sorted(ends)
    assert ends[-1] <= len(whole.pcm)


def test_it_is_saved_without_the_voice_and_loaded_with_it(tmp_path: Path) -> None:
    voice, made = make_voice(), make_token_voice()
    voice.save(tmp_path / "voice")
    made.save(tmp_path / "tokens")
    loaded = TokenVoice.load(tmp_path / "tokens")
    assert torch.equal(loaded.plan(PHONES).frames, made.plan(PHONES).frames)
    assert (tmp_path / "tokens" / "model.safetensors").stat().st_size < 200_000
    values = json.loads((tmp_path / "tokens" / "config.json").read_text())
    (tmp_path / "tokens" / "config.json").write_text(json.dumps(values | {"model_type": "other"}))
    with pytest.raises(BadCheckpoint, match="not a voice of tokens"):
        TokenVoice.load(tmp_path / "tokens")


def test_parts_of_different_trainings_are_refused() -> None:
    config = make_token_voice().config
    other = dataclasses.replace(config, writer=dataclasses.replace(config.writer, fingerprint="other"))
    with pytest.raises(BadCheckpoint, match="tokens of tokenizer other"):
        TokenVoice(other, make_voice())
    wide = dataclasses.replace(config, planner=dataclasses.replace(config.planner, condition=5))
    with pytest.raises(BadCheckpoint, match="takes frames of 86"):
        TokenVoice(wide, make_voice())


@pytest.mark.parametrize(("phones", "rate"), [([], 1.0), ([999], 1.0), (PHONES, 0.0)])
def test_plans_that_cannot_be_are_refused(phones: list[int], rate: float) -> None:
    with pytest.raises(ValueError, match="a plan needs phones"):
        make_token_voice().plan(phones, rate=rate)
