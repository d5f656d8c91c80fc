"""`.nemo` archives with random weights give what transformers' classes give with the same weights."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import yaml
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from vivavoce.speech import checkpoint, nemo
from vivavoce.speech.asr.model import AsrModel
from vivavoce.speech.asr.transducer import TransducerGreedy
from vivavoce.speech.errors import BadCheckpoint, MissingDependency, VivaVoceError
from vivavoce.speech.features import slaney_filters

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a quick brown fox jumps over the lazy dog again and again",
    "she sells sea shells on the sea shore",
    "how much wood would a woodchuck chuck",
]
PIECES = 48
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
}
TRANSDUCER = {"vocab_size": PIECES + 1, "blank_token_id": PIECES, "decoder_hidden_size": 16, "num_decoder_layers": 1}

CONFIG: dict[str, Any] = {
    "target": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    "sample_rate": 16000,
    "model_defaults": {"enc_hidden": 32, "pred_hidden": 16, "joint_hidden": 16},
    "tokenizer": {"dir": "/tokenizer", "type": "bpe", "model_path": "nemo:0123abcd_tokenizer.model"},
    "preprocessor": {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": "${sample_rate}",
        "normalize": "NA",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": 80,
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": 1e-05,
        "pad_to": 0,
    },
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": "${preprocessor.features}",
        "feat_out": -1,
        "n_layers": 2,
        "d_model": "${model_defaults.enc_hidden}",
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "causal_downsampling": True,
        "reduction": None,
        "ff_expansion_factor": 2,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
        "att_context_style": "chunked_limited",
        "xscaling": True,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 9,
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
        "dropout": 0.1,
    },
    "decoder": {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "blank_as_pad": True,
        "prednet": {"pred_hidden": "${model.model_defaults.pred_hidden}", "pred_rnn_layers": 1, "dropout": 0.2},
    },
    "joint": {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "jointnet": {"joint_hidden": "${model_defaults.joint_hidden}", "activation": "relu", "dropout": 0.2},
    },
    "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
    "aux_ctc": {"decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "num_classes": PIECES}},
}
WHOLE = {
    "causal_downsampling": False,
    "att_context_size": [-1, -1],
    "att_context_style": "regular",
    "conv_norm_type": "batch_norm",
    "conv_context_size": None,
}

NAMES = (  # transformers' names as NeMo has them
    (r"encoder\.subsampling\.conv_in\.", "encoder.pre_encode.conv.0."),
    (r"encoder\.subsampling\.layers\.0\.depthwise_conv\.", "encoder.pre_encode.conv.2."),
    (r"encoder\.subsampling\.layers\.0\.pointwise_conv\.", "encoder.pre_encode.conv.3."),
    (r"encoder\.subsampling\.layers\.1\.depthwise_conv\.", "encoder.pre_encode.conv.5."),
    (r"encoder\.subsampling\.layers\.1\.pointwise_conv\.", "encoder.pre_encode.conv.6."),
    (r"encoder\.subsampling\.layers\.(\d)\.", r"encoder.pre_encode.conv.\1."),
    (r"encoder\.subsampling\.linear", "encoder.pre_encode.out"),
    (r"relative_k_proj", "linear_pos"),
    (r"self_attn\.([qkv])_proj", r"self_attn.linear_\1"),
    (r"o_proj", "linear_out"),
    (r"self_attn\.bias_", "self_attn.pos_bias_"),
    (r"conv\.norm", "conv.batch_norm"),
    (r"decoder\.decoder_projector", "joint.pred"),
    (r"^encoder_projector", "joint.enc"),
    (r"joint\.head", "joint.joint_net.2"),
    (r"decoder\.embedding", "decoder.prediction.embed"),
    (r"decoder\.lstm", "decoder.prediction.dec_rnn.lstm"),
    (r"^ctc_head", "decoder.decoder_layers.0"),
)


@cache
def sentencepiece() -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        minloglevel=2,
    )
    return model.getvalue()


def randomise(model: torch.nn.Module) -> Any:
    draw = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and "inv_freq" not in name:
            noise = torch.randn(tensor.shape, generator=draw) * (0.3 if tensor.dim() > 1 else 0.1)
            tensor.data.copy_(noise.abs() + 0.5 if "running_var" in name else noise + float("norm" in name))
    return model.eval()


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a transformers model as NeMo would hold them, its features' constants beside them."""
    window = torch.hann_window(400, periodic=False)
    renamed = {"preprocessor.featurizer.window": window, "preprocessor.featurizer.fb": slaney_filters(80).T[None]}
    for name, value in model.state_dict().items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def archive(path: Path, config: dict[str, Any], tensors: Any, mode: str = "w", **changed: bytes | None) -> Path:
    """Writes an archive; changed: other contents for `yaml`, `weights` or `tokenizer`, None for no such file."""
    contents = {"yaml": yaml.safe_dump(config).encode(), "weights": saved(tensors), "tokenizer": sentencepiece()}
    names = {"yaml": "model_config.yaml", "weights": "model_weights.ckpt", "tokenizer": "0123abcd_tokenizer.model"}
    with tarfile.open(path, mode) as tar:
        for part, value in {**contents, **changed}.items():
            if value is not None:
                info = tarfile.TarInfo(f"./{names[part]}")
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
    return path


def configured(**changes: Any) -> dict[str, Any]:
    """CONFIG with sections or settings (`encoder__n_heads`) put in; None for a section takes it out."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            config[part][name] = value
        elif value is None:
            del config[part]
        else:
            config[part].update(value)
    return config


def streaming() -> Any:
    encoder = tf.NemotronAsrStreamingEncoderConfig(**SMALL)
    return randomise(
        tf.NemotronAsrStreamingForRNNT(tf.NemotronAsrStreamingConfig(**TRANSDUCER, encoder_config=encoder))
    )


def hybrid_state(theirs: Any) -> dict[str, Tensor]:
    torch.manual_seed(2)
    head = torch.nn.Conv1d(32, PIECES + 1, 1)
    return {
        **state(theirs),
        "ctc_decoder.decoder_layers.0.weight": head.weight.data,
        "ctc_decoder.decoder_layers.0.bias": head.bias.data,
    }  # type: ignore[union-attr]


def voices(*samples: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(n, generator=draw) * 0.1 * torch.sin(torch.arange(n) * 0.0004) for n in samples]


def batch(pcm: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(pcm, batch_first=True), torch.tensor([len(p) for p in pcm])


def theirs_features(extractor: Any, pcm: list[Tensor]) -> Any:
    return extractor([p.numpy() for p in pcm], sampling_rate=16000, return_tensors="pt")


def greedy(model: AsrModel, frames: Tensor, counts: Tensor) -> list[int]:
    assert model.transducer is not None
    decoder = TransducerGreedy(model.transducer)
    out, n = decoder.step(frames, decoder.init_state(1), counts, torch.ones(1, dtype=torch.bool))
    return out.token[0, : int(n[0])].tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def theirs_greedy(model: Any, inputs: Any, **options: Any) -> list[int]:
    out = model.generate(**inputs, decoder_start_token_id=PIECES, max_new_tokens=400, **options)
    return [t for t in out.sequences[0].tolist() if t != PIECES]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cache_aware_hybrid_equals_transformers(tmp_path: Path, mode: str) -> None:
    theirs = streaming()
    tensors = hybrid_state(theirs)
    loaded = checkpoint.load(archive(tmp_path / "hybrid.nemo", CONFIG, tensors, mode))
    config = loaded.model.config
    assert (config.name, config.pieces, config.decoders) == ("hybrid", PIECES, ("ctc", "rnnt"))
    assert (config.encoder.causal, config.encoder.left_context, config.lookaheads) == (True, 70, (0, 1, 6, 13))
    pcm = voices(30_000)
    inputs = theirs_features(tf.NemotronAsrStreamingFeatureExtractor(), pcm)
    for lookahead in (0, 6) if mode == "w" else (1,):
        with torch.no_grad():
            want = theirs.encoder(**inputs, num_lookahead_tokens=lookahead)
            got, counts = loaded.model(*batch(pcm), lookahead)
            n = int(want.attention_mask.sum())
            frames = want.last_hidden_state[:, :n].transpose(1, 2)
            head = (tensors[f"ctc_decoder.decoder_layers.0.{x}"] for x in ("weight", "bias"))
            ctc = torch.nn.functional.conv1d(frames, *head).transpose(1, 2).log_softmax(-1)
            torch.testing.assert_close(got, want.last_hidden_state[:, :n], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(loaded.model.ctc(got), ctc, rtol=1e-4, atol=1e-4)  # type: ignore[misc]
        assert greedy(loaded.model, got, counts) == theirs_greedy(theirs, inputs, num_lookahead_tokens=lookahead)


def make_tokens_vary(theirs: Any, frames: Tensor) -> None:
    """What is heard decides; and transformers' generate() is spared what it cannot do: it takes a duration for a token
    where it has the top logit, and never leaves a frame whose tokens all last no time. (It also takes the index of a
    duration for the duration, so only 0, 1, 2, ... can be compared.)"""
    projector, head = theirs.encoder_projector, theirs.joint.head
    projector.weight.data *= 10
    projector.bias.data.copy_(-projector.weight.data @ frames[0].mean(0))
    head.bias.data[PIECES + 1 :] -= 200
    head.bias.data[PIECES + 1] -= 200


@pytest.mark.parametrize("kind", ["ctc", "tdt"])
def test_models_of_whole_utterances_equal_transformers(tmp_path: Path, kind: str) -> None:
    encoder = tf.ParakeetEncoderConfig(**SMALL, attention_bias=False, convolution_bias=False)
    changes: dict[str, Any] = {"encoder": {**WHOLE, "use_bias": False}, "preprocessor__normalize": "per_feature"}
    if kind == "ctc":
        theirs = tf.ParakeetForCTC(
            tf.ParakeetCTCConfig(vocab_size=PIECES + 1, pad_token_id=PIECES, encoder_config=encoder)
        )
        config = configured(**changes, joint=None, aux_ctc=None, decoder={"num_classes": PIECES})
    else:
        theirs = tf.ParakeetForTDT(tf.ParakeetTDTConfig(**TRANSDUCER, encoder_config=encoder, durations=[0, 1, 2, 3]))
        config = configured(**changes, aux_ctc=None, joint__num_extra_outputs=4, decoding__durations=[0, 1, 2, 3])
    randomise(theirs)
    pcm = voices(30_000)
    inputs = theirs_features(tf.ParakeetFeatureExtractor(), pcm)
    with torch.no_grad():
        want = theirs.encoder(**inputs)
    if kind == "tdt":
        make_tokens_vary(theirs, want.last_hidden_state)
    model = checkpoint.load(archive(tmp_path / "whole.nemo", config, state(theirs))).model
    assert (model.config.decoders, model.config.normalize, model.config.lookaheads) == ((kind,), "per_feature", ())
    n = int(want.attention_mask.sum())
    with torch.no_grad():
        got, counts = model(*batch(pcm))
        torch.testing.assert_close(got, want.last_hidden_state[:, :n], rtol=1e-4, atol=1e-4)
        if model.ctc is not None:
            ctc = theirs(**inputs).logits[:, :n].log_softmax(-1)
            torch.testing.assert_close(model.ctc(got), ctc, rtol=1e-4, atol=1e-4)
            return
    tokens = theirs_greedy(theirs, inputs)
    assert greedy(model, got, counts) == tokens
    assert len(set(tokens)) > 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("encoder__att_context_style", "regular"),
        ("encoder__att_context_size", [-1, 13]),
        ("encoder__att_context_size", [[70, 1], [140, 13]]),
        ("encoder__conv_context_size", [4, 4]),
        ("encoder__conv_norm_type", "batch_norm"),
        ("encoder__subsampling", "striding"),
        ("encoder__subsampling_factor", 4),
        ("encoder__self_attention_model", "abs_pos"),
        ("encoder__untie_biases", False),
        ("encoder__reduction", "pooling"),
        ("preprocessor__normalize", "per_feature"),
        ("preprocessor__normalize", "all_features"),
        ("preprocessor__sample_rate", 8000),
        ("preprocessor__window_stride", 0.02),
        ("joint__num_extra_outputs", 5),
        ("decoder__normalization_mode", "layer"),
        ("tokenizer__type", "wpe"),
    ],
)
def test_a_setting_that_we_lack_is_refused_by_name(tmp_path: Path, setting: str, value: object) -> None:
    path = archive(tmp_path / "other.nemo", configured(**{setting: value}), hybrid_state(streaming()))
    with pytest.raises(BadCheckpoint, match=rf"other\.nemo.*{setting.partition('__')[2]} is"):
        checkpoint.load(path)


def test_settings_that_are_left_out_mean_what_nemo_takes_for_them(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    del config["encoder"]["subsampling"]
    with pytest.raises(BadCheckpoint, match=r"subsampling is striding"):
        checkpoint.load(archive(tmp_path / "a.nemo", config, {}))


def test_broken_archives_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.nemo", CONFIG, hybrid_state(streaming()))
    whole = path.read_bytes()
    for cut in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadCheckpoint, match=r"a\.nemo.*(truncated|missing)"):
            checkpoint.load(path)
    path.write_bytes(b"not a tar at all" * 100)
    with pytest.raises(BadCheckpoint, match=r"not a \.nemo archive"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"yaml": None}, r"model_config\.yaml is missing"),
        ({"weights": None}, r"model_weights\.ckpt is missing"),
        ({"yaml": b"a: [1"}, "not YAML"),
        ({"yaml": b"[1]"}, "not a configuration"),
        ({"yaml": b"a: 1"}, "'tokenizer' is missing"),
        ({"weights": saved([1])}, r"model_weights\.ckpt holds more than weights"),
        ({"weights": b"junk"}, r"model_weights\.ckpt is truncated"),
        ({"weights": saved({"a": print})}, r"model_weights\.ckpt is damaged or holds more than weights"),
    ],
)
def test_a_broken_part_of_an_archive_is_named(tmp_path: Path, changed: dict[str, bytes | None], text: str) -> None:
    path = archive(tmp_path / "a.nemo", CONFIG, {}, **changed)
    with pytest.raises(BadCheckpoint, match=text):
        checkpoint.load(path)


def test_features_other_than_ours_are_refused(tmp_path: Path) -> None:
    tensors = hybrid_state(streaming())
    tensors["preprocessor.featurizer.window"] = torch.hamming_window(400)
    with pytest.raises(BadCheckpoint, match=r"features \(window\)"):
        checkpoint.load(archive(tmp_path / "a.nemo", CONFIG, tensors))


@pytest.mark.parametrize("package", ["sentencepiece", "yaml"])
def test_without_its_packages_an_archive_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path = archive(tmp_path / "a.nemo", CONFIG, {})
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingDependency, match=r"install vivavoce\[hub\]"):
        checkpoint.load(path)


@pytest.mark.parametrize("odd", ["x", None, [], -1, 10**9, {}, True])
def test_settings_of_any_type_are_read_or_refused_in_words(odd: object) -> None:
    plain = configured(encoder={"feat_in": 80, "d_model": 32}, decoder__prednet={"pred_hidden": 16})
    for part, values in plain.items():
        changes = [odd, *({**values, key: odd} for key in values)] if isinstance(values, dict) else [odd]
        for change in changes:
            with contextlib.suppress(VivaVoceError):
                nemo.read_config({**plain, part: change}, "a", PIECES, "here")
