"""Log-mel: the reference's numbers offline, its own offline numbers streamed."""

import pytest
import torch
import transformers
from streams import cut, one_pass, random_sizes, streamed, worst

from vivavoce.speech.features import LogMel


@pytest.mark.parametrize("samples", [160, 161, 199, 200, 359, 360, 1000, 16123])
@pytest.mark.parametrize("mels", [80, 128])
def test_offline_equals_transformers(samples: int, mels: int) -> None:
    pcm = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    theirs = transformers.NemotronAsrStreamingFeatureExtractor(feature_size=mels)(
        pcm.numpy(), sampling_rate=16000, return_tensors="pt")
    ours, count = LogMel(mels)(pcm[None], torch.tensor([samples]))
    n = int(theirs.attention_mask.sum())
    assert int(count[0]) == n == samples // 160
    assert worst(ours[0], theirs.input_features[0, :n]) < 1e-5


@pytest.mark.parametrize("sizes", [[1], [7, 400, 1], [160], [320], [5000], [100000]])
def test_any_chunking_equals_one_pass(sizes: list[int]) -> None:
    mel = LogMel().double()
    pcm = torch.randn(3001, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = streamed(mel, [pcm], pushes=[sizes], lookaheads=[0])
    assert worst(out[0], one_pass(mel, pcm)) <= 1e-10


def test_ragged_sessions_equal_themselves_alone() -> None:
    mel = LogMel().double()
    g = torch.Generator().manual_seed(2)
    streams = [torch.randn(n, dtype=torch.float64, generator=g) for n in (0, 1, 159, 160, 4321, 9000)]
    pushes = [random_sizes(i, 900) for i in range(len(streams))]
    out = streamed(mel, streams, pushes=pushes, lookaheads=[0] * len(streams), move_at=5)
    for x, y in zip(streams, out, strict=True):
        assert len(y) == len(x) // 160
        assert worst(y, one_pass(mel, x)) <= 1e-10


def test_a_frame_comes_as_soon_as_its_samples_are_there() -> None:
    mel = LogMel()
    state, pcm = mel.init_state(1), torch.randn(2000)
    heard = given = 0
    for piece in cut(pcm, [40]):
        _, count = mel.step(piece[None], state, torch.tensor([len(piece)]), torch.tensor([False]))
        heard, given = heard + len(piece), given + int(count)
        assert given == max(0, (heard - 200) // 160 + 1)


def test_padding_in_the_batch_changes_nothing() -> None:
    mel = LogMel().double()
    pcm = torch.randn(2, 3000, dtype=torch.float64)
    both, count = mel(pcm, torch.tensor([3000, 1234]))
    alone, _ = mel(pcm[1:, :1234], torch.tensor([1234]))
    assert count.tolist() == [18, 7]
    assert worst(both[1, :7], alone[0]) <= 1e-12
