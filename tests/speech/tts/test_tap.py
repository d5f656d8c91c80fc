"""The tap gives what the encoder's convolutions give half way, streamed as at once, and the rest goes on from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from streams import one_pass, streamed
from torch import Tensor

from vivavoce.speech.features import LogMel
from vivavoce.speech.nn.encoder import Encoder, EncoderConfig
from vivavoce.speech.tts.tap import PAIR, Squeezed, Tap, tap_width
from vivavoce.streaming.chain import Chain

CONFIG = EncoderConfig(width=16, layers=2, heads=2, hidden=24, channels=8, left_context=20, dropout=0.0)


def make_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(CONFIG).double().eval()


def make_chain(encoder: Encoder) -> Chain:
    tap = Tap(CONFIG).double().eval()
    whole = encoder.state_dict()
    tap.load_state_dict({name: whole[name] for name in tap.state_dict()})
    return Chain([LogMel().double(), tap], item_shapes=[(), (80,)], like=torch.zeros((), dtype=torch.float64), block=64)


def noise(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def keep(seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def between(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    return between


def test_an_encoder_goes_on_from_the_tap_as_if_it_were_not_there() -> None:
    encoder, seen = make_encoder(), list[Tensor]()
    mels, frames = torch.randn(2, 61, 80, dtype=torch.float64), torch.tensor([61, 40])
    with torch.no_grad():
        plain, count = encoder(mels, frames, 1)
        encoder.subsampling = Squeezed.of(encoder.subsampling, keep(seen))
        tapped, _ = encoder(mels, frames, 1)
    assert torch.allclose(plain, tapped, atol=1e-12)
    assert seen[0].shape == (2, PAIR * int(count.max()), tap_width(CONFIG))


@pytest.mark.parametrize("between", [torch.zeros_like, torch.nn.Threshold(1e9, 0.0)])
def test_what_lies_between_changes_what_the_encoder_hears(between: Callable[[Tensor], Tensor]) -> None:
    encoder = make_encoder()
    mels, frames = torch.randn(1, 40, 80, dtype=torch.float64), torch.tensor([40])
    with torch.no_grad():
        plain, _ = encoder(mels, frames, 1)
        encoder.subsampling = Squeezed.of(encoder.subsampling, between)
        assert not torch.allclose(plain, encoder(mels, frames, 1)[0], atol=1e-3)


@pytest.mark.parametrize("lookahead", [0, 1, 6])
def test_any_chunking_equals_one_pass_and_what_the_encoder_computes_on_its_way(lookahead: int) -> None:
    encoder, seen = make_encoder(), list[Tensor]()
    chain, streams = make_chain(encoder), [noise(n, n) for n in (500, 9000, 16_001)]
    made = streamed(chain, streams, pushes=[[320], [700, 100], [3000]], lookaheads=[lookahead] * 3, move_at=3)
    encoder.subsampling = Squeezed.of(encoder.subsampling, keep(seen))
    for pcm, y in zip(streams, made, strict=True):
        assert torch.allclose(y, one_pass(chain, pcm, lookahead), atol=1e-10)
        mels, count = chain.stages[0](pcm[None], torch.tensor([len(pcm)]))  # type: ignore[operator]
        with torch.no_grad():
            frames = int(encoder(mels, count, lookahead)[1])
        assert torch.allclose(y, seen.pop()[0, : PAIR * frames], atol=1e-10)
        assert len(y) == PAIR * frames


def test_an_encoder_of_whole_utterances_has_no_tap() -> None:
    with pytest.raises(ValueError, match="no tap"):
        Tap(EncoderConfig(width=16, layers=1, heads=2, hidden=24, channels=8, causal=False, conv_norm="batch"))
