"""The transducer: greedy decoding equals the frame-by-frame loop and transformers' generate(), however it is cut."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from streams import shuffled
from torch import Tensor
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingEncoderConfig,
    NemotronAsrStreamingForRNNT,
    ParakeetEncoderConfig,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
)

from vivavoce.speech.asr.transducer import Transducer, TransducerGreedy
from vivavoce.speech.asr.words import Token, tokens_of
from vivavoce.speech.errors import BadConfig

D, VOCAB = 8, 6
DURATIONS = {"rnnt": (), "tdt": (0, 1, 2, 3, 4), "tdt_long": (1, 7)}


@pytest.fixture(params=DURATIONS)
def model(request: pytest.FixtureRequest) -> Transducer:
    torch.manual_seed(3)
    model = Transducer(D, VOCAB, hidden=10, joint=7, layers=2, durations=DURATIONS[request.param]).double()
    for p in model.parameters():
        p.data.mul_(3)
    model.joint.head.bias.data[VOCAB] += 1.0
    return model


def alone(model: Transducer, x: Tensor, max_symbols: int) -> list[Token]:
    """One utterance, one frame, one label at a time, with the plain modules: x (T, d)."""
    tokens: list[Token] = []
    frame, symbols = 0, 0
    while frame < len(x):
        history = torch.tensor([[t.token for t in tokens]], dtype=torch.int64)
        logits = model(x[None, frame : frame + 1], history)[0, 0, -1]
        p = logits[: VOCAB + 1].softmax(0)
        label = int(p.argmax())
        duration = int(model.durations[logits[VOCAB + 1 :].argmax()]) if len(model.durations) else 0
        if label == VOCAB:
            frame, symbols = frame + max(duration, 1), 0
            continue
        tokens.append(Token(label, frame, frame + max(duration, 1), float(p.max().detach())))
        symbols += 1
        if duration == 0 and symbols >= max_symbols:
            duration = 1
        frame, symbols = frame + duration, 0 if duration else symbols
    return tokens


def assert_same(got: list[Token], expected: list[Token]) -> None:
    assert [t[:3] for t in got] == [t[:3] for t in expected]
    assert [t.confidence for t in got] == pytest.approx([t.confidence for t in expected], abs=1e-10)


@pytest.mark.parametrize(("max_symbols", "window"), [(1, 1), (3, 8), (6, 5)])
def test_a_step_over_everything_equals_the_plain_loop(model: Transducer, max_symbols: int, window: int) -> None:
    lengths = [50, 13, 1, 0]
    x = torch.randn(4, 50, D, dtype=torch.float64)
    stage = TransducerGreedy(model, max_symbols, window)
    y, count = stage.step(x, stage.init_state(4), torch.tensor(lengths), torch.ones(4, dtype=torch.bool))
    expected = [alone(model, x[s, :n], max_symbols) for s, n in enumerate(lengths)]
    assert len({t.token for t in expected[0]}) > 2
    for slot in range(4):
        assert_same(tokens_of(y, count, slot), expected[slot])


def test_ragged_chunks_with_a_snapshot_and_a_permutation_equal_each_alone(model: Transducer) -> None:
    lengths = [40, 0, 17, 33]
    x = torch.randn(4, 40, D, dtype=torch.float64)
    stage = TransducerGreedy(model, max_symbols=3)
    got, state = shuffled(stage, x, lengths, seed=1, pad=float("nan"))  # what does not count may be anything
    for s in range(4):
        assert_same(got[s], alone(model, x[s, : lengths[s]], 3))
        assert state.frames[s] == lengths[s]


def test_trailing_blanks_count_the_silence_at_the_end(model: Transducer) -> None:
    stage = TransducerGreedy(model)
    state = stage.init_state(1)
    x = torch.randn(1, 30, D, dtype=torch.float64)
    last = alone(model, x[0], 10)[-1]
    stage.step(x, state, torch.tensor([30]), torch.tensor([False]))
    assert state.trailing_blanks.tolist() == [max(0, 30 - last.end_frame)]


def test_a_step_of_nothing_emits_nothing(model: Transducer) -> None:
    stage = TransducerGreedy(model)
    state = stage.init_state(2)
    y, count = stage.step(torch.zeros(2, 0, D).double(), state, torch.zeros(2, dtype=torch.int64), torch.ones(2) > 0)
    assert (y.token.shape, count.tolist()) == ((2, 0), [0, 0])


ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 80,
}
DECODER = {"vocab_size": 9, "decoder_hidden_size": 16, "num_decoder_layers": 2, "blank_token_id": 8, "pad_token_id": 2}


def nemotron() -> NemotronAsrStreamingForRNNT:
    encoder = NemotronAsrStreamingEncoderConfig(**ENCODER, default_num_lookahead_tokens=6)
    return NemotronAsrStreamingForRNNT(
        NemotronAsrStreamingConfig(encoder_config=encoder, **DECODER, max_symbols_per_step=3)
    )


def parakeet_rnnt() -> ParakeetForRNNT:
    encoder = ParakeetEncoderConfig(**ENCODER)
    return ParakeetForRNNT(ParakeetRNNTConfig(encoder_config=encoder, **DECODER, max_symbols_per_step=3))


def parakeet_tdt() -> ParakeetForTDT:
    return ParakeetForTDT(ParakeetTDTConfig(encoder_config=ParakeetEncoderConfig(**ENCODER), **DECODER))


@pytest.mark.parametrize("build", [nemotron, parakeet_rnnt, parakeet_tdt])
def test_tokens_and_frames_equal_transformers_generate(build: Callable[[], torch.nn.Module]) -> None:
    """Our greedy decoder with their weights against their generate(), over the same frames.

    A random encoder gives nearly the same frame again and again; so its output is exchanged for random frames.
    """
    torch.manual_seed(5)
    theirs = build().eval()
    blank, durations = DECODER["blank_token_id"], getattr(theirs.config, "durations", ())
    for name, p in theirs.named_parameters():
        p.data = p.data if name.startswith("encoder.") else torch.randn_like(p) * 0.6
    theirs.joint.head.bias.data[blank] += 3.0
    if durations:
        theirs.joint.head.bias.data[blank + 1] = -9.0  # theirs has no limit on labels a frame and might never end
    mel, mask = torch.randn(1, 400, 80), torch.ones(1, 400, dtype=torch.bool)
    x = torch.randn(1, 60, ENCODER["hidden_size"])

    def replace_frames(module: torch.nn.Module, args: object, out: Any) -> None:
        out.last_hidden_state = x[:, : out.last_hidden_state.shape[1]]

    theirs.encoder.register_forward_hook(replace_frames)
    theirs.generation_config.decoder_start_token_id = blank
    theirs.generation_config.suppress_tokens = [blank + 1 + i for i in range(len(durations))] or None
    out = theirs.generate(input_features=mel, attention_mask=mask, max_new_tokens=500)
    frames = out.durations[0].cumsum(0)[:-1]  # the frame each step after the start token was taken at
    steps = list(zip(out.sequences[0, 1:].tolist(), frames.tolist(), strict=True))
    expected = [(token, frame) for token, frame in steps if token != blank]
    assert len({token for token, _ in expected}) > 2
    assert len(expected) < len(steps)

    ours = Transducer(ENCODER["hidden_size"], blank, hidden=16, layers=2, durations=durations)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("encoder.")})
    length = theirs._get_subsampling_output_length(torch.tensor([400]))
    stage = TransducerGreedy(ours, max_symbols=3)
    y, count = stage.step(x, stage.init_state(1), length, torch.tensor([True]))
    assert [t[:2] for t in tokens_of(y, count, 0)] == expected


def test_loss_equals_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    model = Transducer(D, VOCAB, hidden=10, layers=1)
    x, targets = torch.randn(2, 5, D), torch.tensor([[1, 2], [4, -100]])
    lengths, target_lengths = torch.tensor([5, 3]), torch.tensor([2, 1])

    def likelihood(logp: Tensor, labels: list[int]) -> Tensor:
        """Forward algorithm over logp (T, U + 1, vocab + 1)."""
        alpha: dict[tuple[int, int], Tensor] = {(0, 0): torch.zeros(())}
        for t in range(len(logp)):
            for u in range(len(labels) + 1):
                ways = [alpha[t - 1, u] + logp[t - 1, u, VOCAB]] if t else []
                ways += [alpha[t, u - 1] + logp[t, u - 1, labels[u - 1]]] if u else []
                if ways:
                    alpha[t, u] = torch.stack(ways).logsumexp(0)
        return alpha[len(logp) - 1, len(labels)] + logp[-1, len(labels), VOCAB]

    logp = model(x, targets.clamp(min=0)).log_softmax(-1)
    expected = -(likelihood(logp[0], [1, 2]) + likelihood(logp[1, :3, :2], [4])) / 2
    loss = model.loss(x, lengths, targets, target_lengths)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_training_teaches_a_target() -> None:
    torch.manual_seed(0)
    model = Transducer(D, VOCAB, hidden=16, layers=1, dropout=0.1)
    x, targets = torch.randn(2, 8, D), torch.tensor([[1, 2, 2], [3, 0, 0]])
    lengths, target_lengths = torch.tensor([8, 6]), torch.tensor([3, 1])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimiser.zero_grad()
        model.loss(x, lengths, targets, target_lengths).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    stage = TransducerGreedy(model.eval())
    y, count = stage.step(x, stage.init_state(2), lengths, torch.ones(2, dtype=torch.bool))
    assert [t.token for t in tokens_of(y, count, 0)] == [1, 2, 2]
    assert [t.token for t in tokens_of(y, count, 1)] == [3]
    assert model.decoder.embedding.weight[VOCAB].abs().max() == 0  # the start stays a zero vector


def test_training_a_tdt_model_is_refused_with_the_cure() -> None:
    model = Transducer(D, VOCAB, hidden=4, durations=(0, 1))
    with pytest.raises(BadConfig, match=r"durations=\(\)"):
        model.loss(torch.zeros(1, 2, D), torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))
