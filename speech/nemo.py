"""`.nemo` archives: a tar of `model_config.yaml`, `model_weights.ckpt` and a sentencepiece model.

Reads NeMo's FastConformer recognisers (CTC, RNN-T, TDT and hybrids; cache-aware streaming or whole utterances) into the
parts of a checkpoint. The archive is only read: nothing in it is unpacked or run.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import Tokenizer

from . import config as configs
from .asr.model import AsrConfig, TransducerConfig
from .errors import BadCheckpoint, MissingDependency
from .features import FFT, WINDOW, LogMel
from .foreign import damage_named, rename, require, section
from .nn.encoder import EncoderConfig
from .sentencepieces import tokenizer_from_sentencepiece
from .weights import Parts

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"

_LAYER = "encoder.layers.{}."
TABLE = {
    "encoder.pre_encode.conv.0": "encoder.subsampling.convs.0",
    "encoder.pre_encode.conv.2": "encoder.subsampling.convs.1",
    "encoder.pre_encode.conv.3": "encoder.subsampling.points.0",
    "encoder.pre_encode.conv.5": "encoder.subsampling.convs.2",
    "encoder.pre_encode.conv.6": "encoder.subsampling.points.1",
    "encoder.pre_encode.out": "encoder.subsampling.out",
    _LAYER + "norm_feed_forward1": _LAYER + "norm_ff1",
    _LAYER + "norm_self_att": _LAYER + "norm_attention",
    _LAYER + "norm_conv": _LAYER + "norm_conv",
    _LAYER + "norm_feed_forward2": _LAYER + "norm_ff2",
    _LAYER + "norm_out": _LAYER + "norm_out",
    _LAYER + "feed_forward1.linear1": _LAYER + "ff1.up",
    _LAYER + "feed_forward1.linear2": _LAYER + "ff1.down",
    _LAYER + "feed_forward2.linear1": _LAYER + "ff2.up",
    _LAYER + "feed_forward2.linear2": _LAYER + "ff2.down",
    _LAYER + "self_attn.linear_q": _LAYER + "attention.q",
    _LAYER + "self_attn.linear_k": _LAYER + "attention.k",
    _LAYER + "self_attn.linear_v": _LAYER + "attention.v",
    _LAYER + "self_attn.linear_out": _LAYER + "attention.out",
    _LAYER + "self_attn.linear_pos": _LAYER + "attention.position",
    _LAYER + "self_attn.pos_bias_u": _LAYER + "attention.bias_u",
    _LAYER + "self_attn.pos_bias_v": _LAYER + "attention.bias_v",
    _LAYER + "conv.pointwise_conv1": _LAYER + "conv.expand",
    _LAYER + "conv.depthwise_conv": _LAYER + "conv.depthwise",
    _LAYER + "conv.batch_norm": _LAYER + "conv.norm",  # so called when it is a layer norm, too
    _LAYER + "conv.pointwise_conv2": _LAYER + "conv.out",
    "ctc_decoder.decoder_layers.0": "ctc.linear",  # a hybrid's
    "decoder.decoder_layers.0": "ctc.linear",  # a CTC model's
    "decoder.prediction.embed": "transducer.decoder.embedding",
    "decoder.prediction.dec_rnn.lstm": "transducer.decoder.lstm",
    "joint.pred": "transducer.decoder.decoder_projector",
    "joint.enc": "transducer.encoder_projector",
    "joint.joint_net.1": "transducer.joint.head",  # without dropout
    "joint.joint_net.2": "transducer.joint.head",
}
IGNORED = ("preprocessor.", "encoder.pos_enc.", "spec_augmentation.", "loss.", "ctc_loss.", "wer.", "ctc_wer.")

# what NeMo takes for a key that a configuration leaves out
ENCODER = {
    "subsampling": "striding", "subsampling_factor": 4, "subsampling_conv_channels": -1, "reduction": None,
    "causal_downsampling": False, "feat_out": -1, "ff_expansion_factor": 4, "self_attention_model": "rel_pos",
    "n_heads": 4, "att_context_size": None, "att_context_style": "regular", "xscaling": True, "untie_biases": True,
    "use_bias": True, "conv_kernel_size": 31, "conv_norm_type": "batch_norm", "conv_context_size": None,
    "global_tokens": 0, "dropout": 0.1,
}  # fmt: skip


def read(path: Path) -> Parts:
    """Raises BadCheckpoint for an archive that is broken or of a model that we lack, MissingDependency without what
    reading it needs."""
    where = str(path)
    with _open(path) as archive:
        values = _yaml(_member(archive, CONFIG, where).read(), f"{where}: {CONFIG}")
        tokenizer = _tokenizer(archive, values, where)
        config = read_config(values, path.stem, tokenizer.get_vocab_size(), f"{where}: {CONFIG}")
        tensors = _weights(_member(archive, WEIGHTS, where), where)
    _check_features(tensors, config, where)
    return Parts(config, rename(tensors, TABLE, IGNORED, where), tokenizer)


def read_config(values: Mapping[str, Any], name: str, pieces: int, where: str) -> AsrConfig:
    """The settings of `model_config.yaml`, its references already followed."""
    with damage_named(where):
        return _config(values, name, pieces, where)


def _config(values: Mapping[str, Any], name: str, pieces: int, where: str) -> AsrConfig:
    encoder = _encoder({**ENCODER, **section(values, "encoder", where)}, where)
    normalize = _features(section(values, "preprocessor", where), encoder.mels, where)
    if encoder.causal and normalize != "none":
        raise BadCheckpoint(f"{where}: normalize is {normalize}, which no stream can have; only NA is supported here")
    transducer = _transducer(values, where) if "joint" in values else None
    preemphasis = section(values, "preprocessor", where).get("preemph", 0.97)
    return configs.parse(
        AsrConfig,
        {
            "name": name,
            "encoder": configs.to_dict(encoder),
            "pieces": pieces,
            "ctc": transducer is None or "aux_ctc" in values,
            "preemphasis": preemphasis or 0.0,
            "normalize": normalize,
            "transducer": transducer and configs.to_dict(transducer),
            "lookaheads": _contexts(values["encoder"], where)[1] if encoder.causal else (),
        },
        where,
    )


def _encoder(values: Mapping[str, Any], where: str) -> EncoderConfig:
    width, kernel, causal = values.get("d_model"), values["conv_kernel_size"], bool(values["causal_downsampling"])
    require(values, where, subsampling="dw_striding", subsampling_factor=8, reduction=None, feat_out=(-1, width),
            self_attention_model="rel_pos", untie_biases=True, global_tokens=0)  # fmt: skip
    if causal:
        require(values, where, att_context_style="chunked_limited", conv_norm_type="layer_norm",
                conv_context_size=("causal", [kernel - 1, 0]))  # fmt: skip
    else:
        half = (kernel - 1) // 2
        require(values, where, att_context_style="regular", att_context_size=(None, [-1, -1], [[-1, -1]]),
                conv_norm_type=("batch_norm", "layer_norm"), conv_context_size=(None, [half, half]))  # fmt: skip
    channels = values["subsampling_conv_channels"]
    fields = {
        "mels": values.get("feat_in"),
        "width": width,
        "layers": values.get("n_layers"),
        "heads": values["n_heads"],
        "hidden": width * values["ff_expansion_factor"] if isinstance(width, int) else None,
        "conv_kernel": kernel,
        "channels": width if channels == -1 else channels,
        "left_context": _contexts(values, where)[0] if causal else 70,
        "causal": causal,
        "bias": values["use_bias"],
        "scale_input": values["xscaling"],
        "conv_norm": values["conv_norm_type"].removesuffix("_norm"),
        "dropout": values["dropout"],
    }
    return configs.parse(EncoderConfig, fields, f"{where}: encoder")


def _contexts(values: Mapping[str, Any], where: str) -> tuple[int, tuple[int, ...]]:
    """The left context, and the lookaheads trained with it."""
    given: Any = values.get("att_context_size")
    try:
        pairs = [tuple(int(n) for n in pair) for pair in (given if isinstance(given[0], list) else [given])]
        (left,) = {left for left, _ in pairs}
        lookaheads = tuple(sorted({right for _, right in pairs}))
    except (TypeError, ValueError, IndexError):
        left, lookaheads = -1, ()
    if left < 0 or min(lookaheads, default=-1) < 0:
        raise BadCheckpoint(f"{where}: att_context_size is {given}, which is not supported; only [left, right] pairs "
                            "of one limited left context are")  # fmt: skip
    return left, lookaheads


def _features(values: Mapping[str, Any], mels: int, where: str) -> str:
    require(values, where, sample_rate=16000, window_size=0.025, window_stride=0.01, window="hann", n_fft=512,
            features=mels, frame_splicing=1, log=True, log_zero_guard_type="add", log_zero_guard_value=2**-24,
            mag_power=2.0, lowfreq=0, highfreq=(None, 8000), mel_norm="slaney", exact_pad=False,
            normalize=("NA", "per_feature", None))  # fmt: skip
    return "per_feature" if values.get("normalize", "per_feature") == "per_feature" else "none"


def _transducer(values: Mapping[str, Any], where: str) -> TransducerConfig:
    decoder, joint = section(values, "decoder", where), section(values, "joint", where)
    prediction, jointnet = section(decoder, "prednet", where), section(joint, "jointnet", where)
    require(decoder, where, blank_as_pad=True, normalization_mode=None)
    require(prediction, where, rnn_hidden_size=-1)
    require(jointnet, where, activation="relu")
    durations = _durations(values) if joint.get("num_extra_outputs") else ()
    require(joint, where, num_extra_outputs=(0, None) if not durations else len(durations))
    greedy = (values.get("decoding") or {}).get("greedy") or {}
    fields = {
        "hidden": prediction.get("pred_hidden"),
        "layers": prediction.get("pred_rnn_layers"),
        "joint": jointnet.get("joint_hidden"),
        "durations": durations,
        "max_symbols": greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10,
    }
    return configs.parse(TransducerConfig, fields, f"{where}: decoder and joint")


def _durations(values: Mapping[str, Any]) -> tuple[int, ...]:
    for path in (("decoding", "durations"), ("loss", "tdt_kwargs", "durations"), ("model_defaults", "tdt_durations")):
        found: Any = values
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, list):
            return tuple(found)
    return ()


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError) as e:
        raise BadCheckpoint(f"{path}: truncated or not a .nemo archive ({e}); fetch it again") from e


def _member(archive: tarfile.TarFile, name: str, where: str) -> IO[bytes]:
    """A file of the archive by its last name."""
    for member in archive:
        if member.isfile() and Path(member.name).name == name:
            file = archive.extractfile(member)
            if file is not None:
                return file
    raise BadCheckpoint(f"{where}: {name} is missing; it is not a NeMo model, or one sharded in a way not supported")


def _yaml(text: bytes, where: str) -> dict[str, Any]:
    """The configuration, with every `${a.b}` replaced by what it refers to."""
    try:
        import yaml
    except ImportError as e:
        raise MissingDependency(f"{where}: reading it needs pyyaml; install vivavoce[hub]") from e
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadCheckpoint(f"{where}: not YAML ({e}); fetch the archive again") from e
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{where}: not a configuration; fetch the archive again")
    return {key: _resolve(value, values) for key, value in values.items()}


def _resolve(value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """References are followed at most eight deep, so that a circle ends; one to nothing stays as it is."""
    if isinstance(value, dict):
        return {k: _resolve(v, root, depth) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, root, depth) for v in value]
    reference = re.fullmatch(r"\$\{(?:model\.)?([\w.]+)\}", value) if isinstance(value, str) else None
    found: Any = root
    for key in reference[1].split(".") if reference else ():
        found = found.get(key) if isinstance(found, Mapping) else None
    return value if reference is None or found is None or depth > 8 else _resolve(found, root, depth + 1)


def _tokenizer(archive: tarfile.TarFile, values: Mapping[str, Any], where: str) -> Tokenizer:
    settings = section(values, "tokenizer", f"{where}: {CONFIG}")
    require(settings, f"{where}: {CONFIG}", type="bpe")
    name = str(settings.get("model_path")).removeprefix("nemo:")
    return tokenizer_from_sentencepiece(_member(archive, Path(name).name, where).read(), where)


def _weights(file: IO[bytes], where: str) -> dict[str, torch.Tensor]:
    """Copied to a temporary file first: a compressed archive cannot be read here and there."""
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        if not zipfile.is_zipfile(copy):
            raise BadCheckpoint(f"{where}: {WEIGHTS} is truncated or not written by torch; fetch the archive again")
        copy.seek(0)
        try:
            tensors = torch.load(copy, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as e:
            reason = str(e).splitlines()[0]
            raise BadCheckpoint(f"{where}: {WEIGHTS} is damaged or holds more than weights ({reason})") from e
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise BadCheckpoint(f"{where}: {WEIGHTS} holds more than weights; it is not a NeMo model")
    return tensors


def _check_features(tensors: Mapping[str, torch.Tensor], config: AsrConfig, where: str) -> None:
    """The archive holds its window and mel filters: they must be ours."""
    ours, margin = LogMel(config.encoder.mels), (FFT - WINDOW) // 2
    expected = {"window": ours.window[margin : margin + WINDOW], "fb": ours.filters.T}
    for name, want in expected.items():
        given = tensors.get(f"preprocessor.featurizer.{name}")
        if given is None:
            continue
        given = given.float().reshape(-1)
        if given.numel() != want.numel() or (given - want.reshape(-1)).abs().max() > 1e-2 * want.abs().max():
            raise BadCheckpoint(f"{where}: its features ({name}) are not the 16 kHz log-mel of FastConformer")
