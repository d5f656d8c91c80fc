"""The subsampling convolutions are causal, exact in chunks, and see nothing beyond a stream's ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vivavoce.speech.nn.subsampling import SUBSAMPLING, Subsampling

MELS, CHANNELS, WIDTH = 20, 6, 10
HEAD = SUBSAMPLING - 1


@pytest.fixture
def layer() -> Subsampling:
    torch.manual_seed(0)
    return Subsampling(MELS, CHANNELS, WIDTH, causal=True).double().eval()


def memories(layer: Subsampling, batch: int) -> tuple[Tensor, ...]:
    bins = layer.bins(MELS)
    return tuple(torch.zeros(batch, 1, bins[i], 1 if i == 0 else CHANNELS, dtype=torch.float64) for i in range(3))


def whole(layer: Subsampling, mel: Tensor) -> Tensor:
    """(1, 8 T - 7, mels) -> (1, T, width), zeros put before it as a stream's head."""
    n = mel.shape[1]
    padded = torch.cat((torch.zeros(1, HEAD, MELS, dtype=mel.dtype), mel), 1)
    with torch.no_grad():
        return layer(padded, torch.tensor([n]), torch.tensor([-HEAD]), None, torch.tensor([n + HEAD]))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_give_what_one_pass_gives(layer: Subsampling, chunk: int) -> None:
    frames = 6
    mel = torch.randn(1, SUBSAMPLING * frames - HEAD, MELS, dtype=torch.float64)
    once = whole(layer, mel)
    padded = torch.cat((torch.zeros(1, HEAD, MELS, dtype=mel.dtype), mel), 1)
    below, parts = memories(layer, 1), []
    step = SUBSAMPLING * chunk
    for start in range(0, padded.shape[1], step):
        first, seen = torch.tensor([start - HEAD]), torch.tensor([start - HEAD + step])
        with torch.no_grad():
            parts.append(layer(padded[:, start : start + step], seen, first, below, torch.tensor([step])))
    torch.testing.assert_close(torch.cat(parts, 1), once, rtol=0, atol=1e-10)


def test_an_output_depends_on_the_fourteen_frames_before_it_and_on_none_after(layer: Subsampling) -> None:
    mel = torch.randn(1, SUBSAMPLING * 5 - HEAD, MELS, dtype=torch.float64)
    before = whole(layer, mel)
    for t, changed in ((2, 17), (2, 1)):  # just after frame 2's own, and just before the first that it hears
        other = mel.clone()
        other[:, changed] += 1
        torch.testing.assert_close(whole(layer, other)[:, t], before[:, t], rtol=0, atol=0)
    for changed in (2, 16):
        other = mel.clone()
        other[:, changed] += 1
        assert not torch.equal(whole(layer, other)[:, 2], before[:, 2])


def test_what_lies_past_the_end_of_a_row_counts_as_padding(layer: Subsampling) -> None:
    mel = torch.randn(1, 20, MELS, dtype=torch.float64)
    n = 12
    longer = torch.cat((torch.zeros(1, HEAD, MELS, dtype=mel.dtype), mel), 1)[:, : 3 * SUBSAMPLING]
    with torch.no_grad():
        cut = layer(longer, torch.tensor([n]), torch.tensor([-HEAD]), None, torch.tensor([n + HEAD]))
    zeroed = mel[:, : 3 * SUBSAMPLING - HEAD].clone()
    zeroed[:, n:] = 0
    padded = torch.cat((torch.zeros(1, HEAD, MELS, dtype=mel.dtype), zeroed), 1)
    with torch.no_grad():
        same = layer(padded, torch.tensor([n]), torch.tensor([-HEAD]), None, torch.tensor([n + HEAD]))
    frames = int(layer.length(layer.length(layer.length(n))))
    torch.testing.assert_close(cut[:, :frames], same[:, :frames], rtol=0, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_as_many_bins_come_out_as_were_counted(causal: bool) -> None:
    layer = Subsampling(MELS, CHANNELS, WIDTH, causal)
    bins = layer.bins(MELS)
    assert bins[0] == MELS
    assert layer.out.in_features == CHANNELS * bins[-1]
