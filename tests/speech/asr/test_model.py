"""The recogniser's configuration, its normalised features, and building it without weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vivavoce.speech import config as configs
from vivavoce.speech.asr.model import AsrConfig, AsrModel, TransducerConfig, normalize_per_feature
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.nn.encoder import EncoderConfig

ENCODER = EncoderConfig(width=16, layers=1, heads=2, hidden=32, channels=4, dropout=0.0)
CONFIG = AsrConfig("tiny", ENCODER, 10)
WHOLE = replace(
    CONFIG, encoder=replace(ENCODER, causal=False, conv_norm="batch"), normalize="per_feature", lookaheads=()
)


@pytest.mark.parametrize("transducer", [None, TransducerConfig(hidden=8, durations=(0, 1, 2), joint=6)])
def test_a_configuration_survives_json(transducer: TransducerConfig | None) -> None:
    config = replace(CONFIG, transducer=transducer)
    assert configs.parse(AsrConfig, configs.to_dict(config), "here") == config


def test_decoders_are_named_by_what_they_are() -> None:
    rnnt = TransducerConfig()
    assert CONFIG.decoders == ("ctc",)
    assert replace(CONFIG, transducer=rnnt).decoders == ("ctc", "rnnt")
    assert replace(CONFIG, ctc=False, transducer=replace(rnnt, durations=(0, 1))).decoders == ("tdt",)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"ctc": False}, "needs a decoder"), ({"pieces": 0}, "pieces 0"), ({"normalize": "per_feature"}, "causal")],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(BadConfig, match=text):
        configs.parse(AsrConfig, {**configs.to_dict(CONFIG), **change}, "here")


def test_an_empty_model_has_every_constant_and_no_weights() -> None:
    config = replace(CONFIG, transducer=TransducerConfig(hidden=8, durations=(0, 1, 3)))
    empty, full = AsrModel.empty(config), AsrModel(config)
    assert all(p.is_meta for p in empty.parameters())
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in full.named_parameters()}
    for (name, got), (other, want) in zip(empty.named_buffers(), full.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(got, want)


def test_normalised_bins_have_mean_zero_and_deviation_one_whatever_the_padding_holds() -> None:
    torch.manual_seed(0)
    mel = torch.randn(2, 50, 80, dtype=torch.float64) * 3 + 7
    frames = torch.tensor([50, 20])
    mel[1, 20:] = 1e6
    y = normalize_per_feature(mel, frames)
    for row, n in zip(y, frames.tolist(), strict=True):
        torch.testing.assert_close(row[:n].mean(0), torch.zeros(80, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(row[:n].std(0), torch.ones(80, dtype=torch.float64), atol=1e-4, rtol=0)
        assert not row[n:].any()


@pytest.mark.parametrize("frames", [0, 1])
def test_normalising_next_to_nothing_stays_finite(frames: int) -> None:
    assert normalize_per_feature(torch.randn(1, 3, 80), torch.tensor([frames])).isfinite().all()


@pytest.mark.parametrize("config", [CONFIG, WHOLE], ids=["causal", "whole"])
def test_an_utterance_gives_the_same_alone_and_in_a_batch(config: AsrConfig) -> None:
    torch.manual_seed(0)
    model = AsrModel(config).double().eval()
    pcm = torch.randn(2, 9000, dtype=torch.float64) * 0.1
    samples = torch.tensor([9000, 4321])
    with torch.no_grad():
        together, counts = model(pcm, samples, 1)
        alone, count = model(pcm[1:, :4321], samples[1:], 1)
    assert counts[1] == count[0]
    torch.testing.assert_close(together[1, : int(count)], alone[0, : int(count)], rtol=0, atol=1e-10)
