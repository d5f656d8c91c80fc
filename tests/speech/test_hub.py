"""Checkpoints that transformers wrote with random weights give what transformers' own classes give."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import save_file
from streams import streamed
from tokenizers import Tokenizer, models
from torch import Tensor

from vivavoce.speech import checkpoint, hub
from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.asr.transducer import TransducerGreedy
from vivavoce.speech.errors import BadCheckpoint, VivaVoceError
from vivavoce.streaming.chain import Chain

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "subsampling_conv_channels": 8,
}
PIECES = 19
TRANSDUCER = {"vocab_size": PIECES + 1, "blank_token_id": PIECES, "decoder_hidden_size": 16, "num_decoder_layers": 2}


def randomise(model: torch.nn.Module) -> None:
    """Weights, biases and running statistics that all matter."""
    draw = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and "inv_freq" not in name:
            noise = torch.randn(tensor.shape, generator=draw) * (0.3 if tensor.dim() > 1 else 0.1)
            tensor.data.copy_(noise.abs() + 0.5 if "running_var" in name else noise + float("norm" in name))


def write(model: Any, folder: Path, **options: Any) -> Path:
    randomise(model)
    if hasattr(
        model.config, "durations"
    ):  # their generate() takes a duration for a token when its logit is the largest
        model.joint.head.bias.data[PIECES + 1 :] -= 100
    model.eval().save_pretrained(folder, **options)
    pieces = [(f"▁{chr(97 + i)}", -float(i)) for i in range(PIECES)]
    Tokenizer(models.Unigram([*pieces, ("<blank>", 0.0)], unk_id=0)).save(str(folder / "tokenizer.json"))
    return folder


def streaming(scale_input: bool = True, bias: bool = True, mels: int = 80) -> Any:
    encoder = tf.NemotronAsrStreamingEncoderConfig(
        **SMALL, scale_input=scale_input, attention_bias=bias, convolution_bias=bias, num_mel_bins=mels
    )
    return tf.NemotronAsrStreamingForRNNT(tf.NemotronAsrStreamingConfig(**TRANSDUCER, encoder_config=encoder))


def parakeet(kind: str, bias: bool = False) -> Any:
    encoder = tf.ParakeetEncoderConfig(**SMALL, attention_bias=bias, convolution_bias=bias)
    if kind == "ctc":
        config = tf.ParakeetCTCConfig(vocab_size=PIECES + 1, pad_token_id=PIECES, encoder_config=encoder)
        return tf.ParakeetForCTC(config)
    if kind == "rnnt":
        return tf.ParakeetForRNNT(tf.ParakeetRNNTConfig(**TRANSDUCER, encoder_config=encoder))
    return tf.ParakeetForTDT(tf.ParakeetTDTConfig(**TRANSDUCER, encoder_config=encoder, durations=[0, 1, 2, 3]))


def voices(*samples: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(n, generator=draw) * 0.1 * torch.sin(torch.arange(n) * 0.0004) for n in samples]


def batch(pcm: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(pcm, batch_first=True), torch.tensor([len(p) for p in pcm])


def theirs_features(extractor: Any, pcm: list[Tensor]) -> Any:
    return extractor([p.numpy() for p in pcm], sampling_rate=16000, return_tensors="pt")


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def greedy(model: AsrModel, frames: Tensor, counts: Tensor) -> list[list[int]]:
    assert model.transducer is not None
    assert model.config.transducer is not None
    decoder = TransducerGreedy(model.transducer, model.config.transducer.max_symbols)
    state = decoder.init_state(len(counts))
    out, n = decoder.step(frames, state, counts, torch.ones_like(counts, dtype=torch.bool))
    return [out.token[i, : int(n[i])].tolist() for i in range(len(counts))]


@torch.no_grad()
def theirs_greedy(model: Any, inputs: dict[str, Tensor], **options: Any) -> list[list[int]]:
    out = [
        model.generate(
            input_features=inputs["input_features"][i : i + 1, : int(n)],
            attention_mask=inputs["attention_mask"][i : i + 1, : int(n)],
            decoder_start_token_id=PIECES,
            max_new_tokens=2 * int(n),
            **options,
        )
        for i, n in enumerate(inputs["attention_mask"].sum(-1))
    ]
    return [[t for t in o.sequences[0].tolist() if t != PIECES] for o in out]


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, checkpoint.Loaded]:
    model = streaming()
    return model, checkpoint.load(write(model, tmp_path_factory.mktemp("hub") / "nemotron-tiny"))


def test_the_configuration_is_understood(nemotron: tuple[Any, checkpoint.Loaded]) -> None:
    config = nemotron[1].model.config
    assert config.name == "nemotron-tiny"
    assert (config.pieces, config.decoders, config.normalize) == (PIECES, ("rnnt",), "none")
    assert (config.encoder.causal, config.encoder.left_context, config.lookaheads) == (True, 70, (0, 1, 6, 13))


@pytest.mark.parametrize("lookahead", [0, 1, 3, 6, 13, 69])
def test_streaming_encoder_offline_equals_transformers(nemotron: tuple[Any, checkpoint.Loaded], lookahead: int) -> None:
    theirs, loaded = nemotron
    pcm = voices(50_000, 23_456, 160 * 8 * 9)
    inputs = theirs_features(tf.NemotronAsrStreamingFeatureExtractor(), pcm)
    with torch.no_grad():
        want = theirs.encoder(**inputs, num_lookahead_tokens=lookahead)
        got, counts = loaded.model(*batch(pcm), lookahead)
    assert counts.tolist() == want.attention_mask.sum(-1).tolist()
    for i, n in enumerate(counts.tolist()):
        close(got[i, :n], want.last_hidden_state[i, :n])


@pytest.mark.parametrize("lookahead", [0, 1, 6, 13])
def test_streaming_encoder_chunk_by_chunk_equals_transformers(
    nemotron: tuple[Any, checkpoint.Loaded], lookahead: int
) -> None:
    theirs, loaded = nemotron
    chunk = 8 * (lookahead + 1)
    frames = 1 + 8 * lookahead + chunk * (110 // (lookahead + 1))  # whole chunks, past the left context
    (pcm,) = voices(frames * 160)
    mel = theirs_features(tf.NemotronAsrStreamingFeatureExtractor(), [pcm])["input_features"][:, :frames]
    want, cache = [], {}
    with torch.no_grad():
        for part in [mel[:, : 1 + 8 * lookahead], *mel[:, 1 + 8 * lookahead :].split(chunk, 1)]:
            out = theirs.encoder(part, num_lookahead_tokens=lookahead, use_cache=True, **cache)
            cache = {"past_key_values": out.past_key_values, "padding_cache": out.padding_cache}
            want.append(out.last_hidden_state[0])
    model = loaded.model
    chain = Chain([model.features, model.encoder], item_shapes=[(), (80,)], like=torch.zeros(()))
    (got,) = streamed(chain, [pcm], pushes=[[1600]], lookaheads=[lookahead])
    close(got, torch.cat(want))


@pytest.mark.parametrize("lookahead", [0, 6])
def test_streaming_transducer_tokens_equal_transformers(
    nemotron: tuple[Any, checkpoint.Loaded], lookahead: int
) -> None:
    theirs, loaded = nemotron
    pcm = voices(40_000, 31_234)
    inputs = theirs_features(tf.NemotronAsrStreamingFeatureExtractor(), pcm)
    want = theirs_greedy(theirs, inputs, num_lookahead_tokens=lookahead)
    with torch.no_grad():
        got = greedy(loaded.model, *loaded.model(*batch(pcm), lookahead))
    assert got == want
    assert all(len(row) > 5 for row in want)


@pytest.mark.parametrize(("scale_input", "bias", "mels"), [(False, True, 128), (True, False, 80)])
def test_scaling_biases_and_mels_follow_the_configuration(
    tmp_path: Path, scale_input: bool, bias: bool, mels: int
) -> None:
    theirs = streaming(scale_input, bias, mels)
    loaded = checkpoint.load(write(theirs, tmp_path))
    pcm = voices(20_000)
    inputs = theirs_features(tf.NemotronAsrStreamingFeatureExtractor(feature_size=mels), pcm)
    with torch.no_grad():
        want = theirs.encoder(**inputs, num_lookahead_tokens=1).last_hidden_state
        close(loaded.model(*batch(pcm), 1)[0], want[:, : len(want[0])])


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt"])
@pytest.mark.parametrize("bias", [False, True])
def test_parakeet_equals_transformers_from_pcm_to_tokens(tmp_path: Path, kind: str, bias: bool) -> None:
    theirs = parakeet(kind, bias)
    model = checkpoint.load(write(theirs, tmp_path)).model
    assert (model.config.decoders, model.config.normalize, model.config.lookaheads) == ((kind,), "per_feature", ())
    pcm = voices(48_000, 30_001, 7_000)
    inputs = theirs_features(tf.ParakeetFeatureExtractor(), pcm)
    with torch.no_grad():
        want = theirs.encoder(**inputs)
        got, counts = model(*batch(pcm))
    assert counts.tolist() == want.attention_mask.sum(-1).tolist()
    for i, n in enumerate(counts.tolist()):
        close(got[i, :n], want.last_hidden_state[i, :n])
    if model.ctc is None:
        assert greedy(model, got, counts) == theirs_greedy(theirs, inputs)
        return
    with torch.no_grad():
        close(model.ctc(got[:1]), theirs(**inputs).logits[:1].log_softmax(-1))


def test_shards_are_read(tmp_path: Path) -> None:
    theirs = parakeet("ctc")
    write(theirs, tmp_path, max_shard_size="50KB")
    assert not (tmp_path / "model.safetensors").exists()
    got = checkpoint.load(tmp_path).model.state_dict()["ctc.linear.weight"]
    torch.testing.assert_close(got, theirs.ctc_head.weight.squeeze(-1), rtol=0, atol=0)


def test_a_converted_checkpoint_gives_the_same_output_from_our_own_layout(
    nemotron: tuple[Any, checkpoint.Loaded], tmp_path: Path
) -> None:
    loaded = nemotron[1]
    about = checkpoint.convert(loaded.source, tmp_path / "ours")
    again = checkpoint.load(tmp_path / "ours")
    assert (about.name, about.parameters) == ("nemotron-tiny", checkpoint.info(loaded.source).parameters)
    assert again.model.config == loaded.model.config
    pcm, n = batch(voices(20_000))
    with torch.no_grad():
        torch.testing.assert_close(again.model(pcm, n, 6)[0], loaded.model(pcm, n, 6)[0], rtol=0, atol=0)


def test_the_processors_settings_are_used_and_checked(tmp_path: Path) -> None:
    folder = write(streaming(), tmp_path)
    processor = folder / "processor_config.json"
    extractor = {"feature_size": 80, "preemphasis": 0.5}
    processor.write_text(json.dumps({"supported_num_lookahead_tokens": [3, 0], "feature_extractor": extractor}))
    config = checkpoint.load(folder).model.config
    assert (config.lookaheads, config.preemphasis) == ((0, 3), 0.5)
    processor.write_text(json.dumps({"feature_extractor": {"hop_length": 128}}))
    with pytest.raises(BadCheckpoint, match=r"processor_config\.json: hop_length is 128"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("subsampling_factor", 4), ("hidden_act", "gelu"), ("convolution_bias", False), ("subsampling_conv_stride", 3)],
)
def test_a_setting_that_we_lack_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    folder = write(streaming(), tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values["encoder_config"][key] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadCheckpoint, match=r"(is .*not supported|attention_bias)"):
        checkpoint.load(folder)


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    folder = write(parakeet("ctc"), tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "parakeet_rnnt"}))
    with pytest.raises(BadCheckpoint, match=r"weights are missing, transducer"):
        checkpoint.load(folder)
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"model\.embed_tokens\.weight has no place in a FastConformer"):
        checkpoint.load(folder)


@pytest.mark.parametrize("odd", ["x", None, [], -1, 10**9, {}, True])
def test_settings_of_any_type_are_read_or_refused_in_words(tmp_path: Path, odd: object) -> None:
    streaming().config.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    for key in [k for k in whole if k != "model_type"]:
        (tmp_path / "config.json").write_text(json.dumps({**whole, key: odd}))
        with contextlib.suppress(VivaVoceError):
            hub.read_config(tmp_path)
    for key in whole["encoder_config"]:
        (tmp_path / "config.json").write_text(
            json.dumps({**whole, "encoder_config": {**whole["encoder_config"], key: odd}})
        )
        with contextlib.suppress(VivaVoceError):
            hub.read_config(tmp_path)
