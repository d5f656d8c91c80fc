"""CTC: the head is transformers', greedy decoding is the textbook's, chunks and batch-mates change nothing."""

import pytest
import torch
from streams import shuffled
from torch import Tensor
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderCTCHead

from vivavoce.speech.asr.ctc import CtcGreedy, CtcHead
from vivavoce.speech.asr.words import Token, tokens_of

D, VOCAB = 8, 5


@pytest.fixture
def head() -> CtcHead:
    torch.manual_seed(0)
    head = CtcHead(D, VOCAB)
    head.linear.weight.data.mul_(4)
    head.linear.bias.data[-1] += 1.0  # silences, and runs of one label
    return head.double()


def alone(head: CtcHead, x: Tensor) -> list[Token]:
    """The textbook, one frame at a time: x (T, d)."""
    tokens, last = [], head.blank
    for frame, p in enumerate(head(x[None])[0].detach().exp()):
        label = int(p.argmax())
        if label not in (last, head.blank):
            tokens.append(Token(label, frame, frame + 1, float(p.max())))
        last = label
    return tokens


def smooth(slots: int, frames: int) -> Tensor:
    """Frames that stay put now and then, so that labels repeat."""
    x = torch.randn(slots, frames, D, dtype=torch.float64)
    return x.repeat_interleave(2, dim=1)[:, :frames]


def assert_same(got: list[Token], expected: list[Token]) -> None:
    assert [t[:3] for t in got] == [t[:3] for t in expected]
    assert [t.confidence for t in got] == pytest.approx([t.confidence for t in expected], abs=1e-12)


def test_a_step_over_everything_is_the_textbook(head: CtcHead) -> None:
    x = smooth(3, 50)
    stage = CtcGreedy(head, head.blank)
    y, count = stage.step(x, stage.init_state(3), torch.full((3,), 50), torch.ones(3, dtype=torch.bool))
    for slot in range(3):
        expected = alone(head, x[slot])
        assert len(expected) > 5
        assert_same(tokens_of(y, count, slot), expected)


def test_ragged_chunks_with_a_snapshot_and_a_permutation_equal_each_alone(head: CtcHead) -> None:
    lengths = [40, 0, 17, 33]
    x = smooth(4, 40)
    stage = CtcGreedy(head, head.blank)
    got, state = shuffled(stage, x, lengths, seed=1, pad=float("nan"))  # what does not count may be anything
    for s in range(4):
        assert_same(got[s], alone(head, x[s, : lengths[s]]))
        assert state.frames[s] == lengths[s]


def test_trailing_blanks_count_the_silence_at_the_end() -> None:
    stage = CtcGreedy(lambda x: x.log_softmax(-1), blank=1)
    one_hot = torch.eye(2)[torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]])] * 9
    state = stage.init_state(2)
    not_final = torch.zeros(2, dtype=torch.bool)
    stage.step(one_hot, state, torch.tensor([4, 4]), not_final)
    assert state.trailing_blanks.tolist() == [2, 0]
    stage.step(one_hot, state, torch.tensor([1, 3]), not_final)
    assert state.trailing_blanks.tolist() == [3, 3]
    stage.step(one_hot[:, :0], state, torch.tensor([0, 0]), ~not_final)
    assert state.frames.tolist() == [5, 7]


def test_head_equals_transformers() -> None:
    theirs, ours = ParakeetEncoderCTCHead(D, VOCAB + 1, kernel_size=1), CtcHead(D, VOCAB)
    weights = theirs.state_dict()
    ours.linear.load_state_dict({"weight": weights["weight"].squeeze(-1), "bias": weights["bias"]})
    x = torch.randn(2, 7, D)
    assert torch.allclose(ours(x), theirs(x).log_softmax(-1), atol=1e-6)


def test_loss_learns_a_target(head: CtcHead) -> None:
    x = torch.randn(2, 12, D, dtype=torch.float64)
    targets, lengths = torch.tensor([[1, 2, 2], [3, 0, 0]]), torch.tensor([12, 9])
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        loss = head.loss(x, lengths, targets, torch.tensor([3, 1]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    stage = CtcGreedy(head, head.blank)
    y, count = stage.step(x, stage.init_state(2), lengths, torch.ones(2, dtype=torch.bool))
    assert [t.token for t in tokens_of(y, count, 0)] == [1, 2, 2]
    assert [t.token for t in tokens_of(y, count, 1)] == [3]
