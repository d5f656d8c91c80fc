"""The Hub's layout: `config.json` and safetensors as transformers writes its FastConformer recognisers.

Reads NemotronAsrStreamingForRNNT (streaming) and ParakeetForCTC, -RNNT and -TDT (whole utterances only) into the parts
of a checkpoint. Their classes are the reference our outputs are held equal to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from . import config as configs
from .asr.model import AsrConfig, TransducerConfig
from .foreign import damage_named, require, section
from .nn.encoder import EncoderConfig

KINDS: dict[str, Literal["ctc", "rnnt", "tdt"]] = {
    "nemotron_asr_streaming": "rnnt",
    "parakeet_ctc": "ctc",
    "parakeet_rnnt": "rnnt",
    "parakeet_tdt": "tdt",
}

_LAYER = "encoder.layers.{}."
TABLE = {
    # streaming
    "encoder.subsampling.conv_in": "encoder.subsampling.convs.0",
    "encoder.subsampling.layers.0.depthwise_conv": "encoder.subsampling.convs.1",
    "encoder.subsampling.layers.0.pointwise_conv": "encoder.subsampling.points.0",
    "encoder.subsampling.layers.1.depthwise_conv": "encoder.subsampling.convs.2",
    "encoder.subsampling.layers.1.pointwise_conv": "encoder.subsampling.points.1",
    # whole utterances only
    "encoder.subsampling.layers.0": "encoder.subsampling.convs.0",
    "encoder.subsampling.layers.2": "encoder.subsampling.convs.1",
    "encoder.subsampling.layers.3": "encoder.subsampling.points.0",
    "encoder.subsampling.layers.5": "encoder.subsampling.convs.2",
    "encoder.subsampling.layers.6": "encoder.subsampling.points.1",
    # both
    "encoder.subsampling.linear": "encoder.subsampling.out",
    _LAYER + "norm_feed_forward1": _LAYER + "norm_ff1",
    _LAYER + "norm_self_att": _LAYER + "norm_attention",
    _LAYER + "norm_conv": _LAYER + "norm_conv",
    _LAYER + "norm_feed_forward2": _LAYER + "norm_ff2",
    _LAYER + "norm_out": _LAYER + "norm_out",
    _LAYER + "feed_forward1.linear1": _LAYER + "ff1.up",
    _LAYER + "feed_forward1.linear2": _LAYER + "ff1.down",
    _LAYER + "feed_forward2.linear1": _LAYER + "ff2.up",
    _LAYER + "feed_forward2.linear2": _LAYER + "ff2.down",
    _LAYER + "self_attn.q_proj": _LAYER + "attention.q",
    _LAYER + "self_attn.k_proj": _LAYER + "attention.k",
    _LAYER + "self_attn.v_proj": _LAYER + "attention.v",
    _LAYER + "self_attn.o_proj": _LAYER + "attention.out",
    _LAYER + "self_attn.relative_k_proj": _LAYER + "attention.position",
    _LAYER + "self_attn.bias_u": _LAYER + "attention.bias_u",
    _LAYER + "self_attn.bias_v": _LAYER + "attention.bias_v",
    _LAYER + "conv.pointwise_conv1": _LAYER + "conv.expand",
    _LAYER + "conv.depthwise_conv": _LAYER + "conv.depthwise",
    _LAYER + "conv.norm": _LAYER + "conv.norm",
    _LAYER + "conv.pointwise_conv2": _LAYER + "conv.out",
    "ctc_head": "ctc.linear",
    "encoder_projector": "transducer.encoder_projector",
    "decoder": "transducer.decoder",
    "joint": "transducer.joint",
}
IGNORED = ("encoder.encode_positions.",)


def read_config(folder: Path) -> AsrConfig:
    """Raises BadCheckpoint for a setting that would change the result and that we do not have."""
    path = folder / "config.json"
    values = configs.read_json(path)
    with damage_named(str(path)):
        return _config(values, folder, str(path))


def _config(values: Mapping[str, Any], folder: Path, where: str) -> AsrConfig:
    kind = KINDS[values["model_type"]]
    causal = values["model_type"] == "nemotron_asr_streaming"
    encoder = _encoder(section(values, "encoder_config", where), causal, where)
    vocabulary = int(values.get("vocab_size", 1025 if causal or kind == "ctc" else 8193))
    require(values, where, **{"pad_token_id" if kind == "ctc" else "blank_token_id": vocabulary - 1})
    config: dict[str, Any] = {
        "name": folder.resolve().name,
        "encoder": configs.to_dict(encoder),
        "pieces": vocabulary - 1,
        "ctc": kind == "ctc",
        "preemphasis": _preemphasis(folder, encoder.mels),
        "normalize": "none" if causal else "per_feature",
        "lookaheads": _lookaheads(folder) if causal else (),
    }
    if kind != "ctc":
        config["transducer"] = configs.to_dict(_transducer(values, kind, where))
    return configs.parse(AsrConfig, config, where)


def _encoder(values: Mapping[str, Any], causal: bool, where: str) -> EncoderConfig:
    require(
        values,
        where,
        subsampling_factor=8,
        subsampling_conv_kernel_size=3,
        subsampling_conv_stride=2,
        hidden_act=("silu", "swish"),
        attention_bias=values.get("convolution_bias", True),
    )
    fields = {
        "mels": ("num_mel_bins", 80),
        "width": ("hidden_size", 1024),
        "layers": ("num_hidden_layers", 24),
        "heads": ("num_attention_heads", 8),
        "hidden": ("intermediate_size", 4096),
        "conv_kernel": ("conv_kernel_size", 9),
        "channels": ("subsampling_conv_channels", 256),
        "bias": ("attention_bias", True),
        "scale_input": ("scale_input", True),
        "dropout": ("dropout", 0.1),
    }
    given = {ours: values.get(theirs, default) for ours, (theirs, default) in fields.items()}
    return configs.parse(
        EncoderConfig,
        {
            **given,
            "left_context": values.get("sliding_window", 71) - 1,
            "causal": causal,
            "conv_norm": "layer" if causal else "batch",
        },
        where,
    )


def _transducer(values: Mapping[str, Any], kind: str, where: str) -> TransducerConfig:
    require(values, where, hidden_act="relu")
    return configs.parse(
        TransducerConfig,
        {
            "hidden": values.get("decoder_hidden_size", 640),
            "layers": values.get("num_decoder_layers", 2),
            "durations": values.get("durations", (0, 1, 2, 3, 4)) if kind == "tdt" else (),
            "max_symbols": values.get("max_symbols_per_step", 10),
        },
        where,
    )


def _processor(folder: Path) -> tuple[dict[str, Any], str]:
    """The processor's settings, which newer repositories keep in one file and older ones in two."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            return configs.read_json(folder / name), str(folder / name)
    return {}, str(folder)


def _preemphasis(folder: Path, mels: int) -> float:
    values, where = _processor(folder)
    values = values.get("feature_extractor", values)
    require(
        values,
        where,
        sampling_rate=16000,
        hop_length=160,
        n_fft=512,
        win_length=400,
        feature_size=mels,
        mel_filters_dtype="float32",
    )
    return float(values.get("preemphasis", 0.97) or 0.0)


def _lookaheads(folder: Path) -> tuple[int, ...]:
    given = _processor(folder)[0].get("supported_num_lookahead_tokens")
    return tuple(sorted(given or (0, 1, 6, 13)))
