"""Language models on disk: Qwen2, Qwen3 and Llama in the Hub's layout, and our own.

A folder, or a Hub id fetched once, becomes a `Loaded` model: decoder, tokenizer, chat template. Everything that would
change the result and that we do not have is refused by name. The engine and the trainer take what comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from vivavoce.speech import config as configs
from vivavoce.speech.checkpoint import locate, read_tokenizer
from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.foreign import damage_named, require
from vivavoce.speech.weights import SCALE, WEIGHTS, Precision, fit, pack, read, unpack, write

from .chat import ChatTemplate
from .config import LlmConfig, RopeScaling
from .decoder import Decoder

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
MODEL_TYPE = "vivavoce_llm"  # what `model_type` of config.json says in our own layout
KINDS = ("llama", "qwen2", "qwen3")

_LAYER = "model.layers.{}."
TABLE = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
    _LAYER + "input_layernorm.weight": "layers.{}.norm_attention.weight",
    _LAYER + "post_attention_layernorm.weight": "layers.{}.norm_mlp.weight",
    _LAYER + "self_attn.q_norm.weight": "layers.{}.attention.q_norm.weight",
    _LAYER + "self_attn.k_norm.weight": "layers.{}.attention.k_norm.weight",
}
for _kind in ("weight", "bias"):
    for _part, _place in (("self_attn.q_proj", "attention.qkv.0"), ("self_attn.k_proj", "attention.qkv.1"),
                          ("self_attn.v_proj", "attention.qkv.2"), ("self_attn.o_proj", "attention.out"),
                          ("mlp.gate_proj", "gate_up.0"), ("mlp.up_proj", "gate_up.1"),
                          ("mlp.down_proj", "down")):  # fmt: skip
        TABLE[f"{_LAYER}{_part}.{_kind}"] = f"layers.{{}}.{_place}.{_kind}"
"""Their name -> ours, `{}` standing for the layer's number; `qkv.0`, `.1`, `.2` are the rows of `qkv` in that order."""

IGNORED = ("rotary_emb.inv_freq",)  # endings of names that old files hold and that follow from the configuration


@dataclass(frozen=True)
class Loaded:
    """A model ready to run. template: None when the folder has no chat template; source: the folder it came from."""

    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    source: Path


def load(source: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Loaded:
    """A model in eval mode from a folder or a Hub id. Raises BadCheckpoint, BadConfig, MissingDependency."""
    folder = locate(source, (MODEL_TYPE,))
    decoder = load_decoder(folder, dtype=dtype, device=device)
    tokenizer = read_tokenizer(folder)
    top = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if top >= decoder.config.vocabulary:
        raise BadCheckpoint(
            f"{folder}: the tokenizer has tokens up to {top}, the model {decoder.config.vocabulary}; they do not "
            "belong together (or the model's vocabulary is still to be extended)"
        )
    return Loaded(decoder, tokenizer, ChatTemplate.read(folder), folder)


def load_decoder(folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The weights alone, from a folder without a tokenizer too. Raises BadCheckpoint, BadConfig."""
    config, tensors = read_config(folder), _tensors(folder)
    if config.tied:
        tensors.pop("head.weight", None)  # some files hold the embeddings twice
    decoder = Decoder.empty(config)
    fit(decoder, {name: value.to(dtype) for name, value in tensors.items()}, str(folder))
    return decoder.eval().to(device)


def save(
    decoder: Decoder,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    template: ChatTemplate | None = None,
    dtype: Precision = "float32",
) -> None:
    """Write our own layout, weights last so that a folder with weights is complete. int8: one scale a row."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_type": MODEL_TYPE, **configs.to_dict(decoder.config)}
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
    if tokenizer is not None:
        (folder / TOKENIZER).write_text(tokenizer.to_str())
    if template is not None:
        template.write(folder)
    write(pack(decoder, dtype), folder / WEIGHTS)


def read_config(folder: Path) -> LlmConfig:
    """Raises BadCheckpoint for another architecture, or a setting that would change the result and that we lack."""
    if not (folder / CONFIG).is_file():
        raise BadCheckpoint(f"{folder}: {CONFIG} is missing; give the folder that holds it and the weights")
    path = folder / CONFIG
    values, where = configs.read_json(path), str(path)
    kind = values.pop("model_type", None)
    if kind == MODEL_TYPE:
        return configs.parse(LlmConfig, values, where)
    if kind not in KINDS:
        raise BadCheckpoint(
            f"{where}: a language model of another kind ({kind}); these load: {', '.join((*KINDS, MODEL_TYPE))}"
        )
    with damage_named(where):
        return _foreign_config(values, str(kind), where, _ends(folder, values))


def _foreign_config(values: Mapping[str, Any], kind: str, where: str, ends: tuple[int, ...]) -> LlmConfig:
    require(values, where, hidden_act="silu", use_sliding_window=(False, None), pretraining_tp=(1, None))
    sizes = {
        "vocabulary": "vocab_size",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
    }
    lacking = [theirs for theirs in sizes.values() if theirs not in values]
    if lacking:
        raise BadCheckpoint(f"{where}: key {lacking[0]!r} is missing; this is not a decoder's configuration")
    heads, bias = values["num_attention_heads"], bool(values.get("attention_bias", False))
    theta, scaling = _rope(values, where)
    given = {ours: values[theirs] for ours, theirs in sizes.items()} | {
        "kv_heads": values.get("num_key_value_heads") or heads,
        "head_dim": values.get("head_dim") or (128 if kind == "qwen3" else values["hidden_size"] // heads),
        "eps": values.get("rms_norm_eps", 1e-6),
        "theta": theta,
        "qkv_bias": kind == "qwen2" or bias,
        "out_bias": kind != "qwen2" and bias,
        "mlp_bias": kind == "llama" and bool(values.get("mlp_bias", False)),
        "qk_norm": kind == "qwen3",
        "tied": bool(values.get("tie_word_embeddings", False)),
        "ends": ends,
        "scaling": scaling,
    }
    return configs.parse(LlmConfig, given, where)


def _rope(values: Mapping[str, Any], where: str) -> tuple[float, Mapping[str, Any] | None]:
    """The rotary base and its stretching; newer files hold both in `rope_parameters`."""
    given = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    theta = float(given.get("rope_theta", values.get("rope_theta", 10000.0)))
    kind = given.get("rope_type", given.get("type", "default"))
    require({"rope_type": kind}, where, rope_type=("default", "llama3"))
    if kind == "default":
        return theta, None
    names = {
        "factor": "factor",
        "low_freq_factor": "low_frequency",
        "high_freq_factor": "high_frequency",
        "original_max_position_embeddings": "original_positions",
    }
    return theta, configs.to_dict(
        configs.parse(RopeScaling, {ours: given[n] for n, ours in names.items() if n in given}, where)
    )


def _ends(folder: Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end a reply: the generation settings know more of them than the model's."""
    path = folder / "generation_config.json"
    generation = configs.read_json(path) if path.is_file() else {}
    given = generation.get("eos_token_id", values.get("eos_token_id"))
    return tuple(given) if isinstance(given, list) else () if given is None else (int(given),)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The folder's weights under our names. Raises BadCheckpoint."""
    tensors = read(folder)
    if any(name.endswith(SCALE) for name in tensors):
        tensors = unpack(tensors)
    for name, value in tensors.items():
        if value.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise BadCheckpoint(
                f"{folder}: {name} is {str(value.dtype).removeprefix('torch.')}; weights in float32, float16 or "
                "bfloat16 load, so fetch the model that is not quantised"
            )
    ours = configs.read_json(folder / CONFIG).get("model_type") == MODEL_TYPE
    return tensors if ours else rename(tensors, str(folder))


def rename(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their names to ours, with q, k and v joined, and gate and up. Raises BadCheckpoint for a name not in TABLE."""
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(IGNORED):
            continue
        number = re.search(r"(?<=^model\.layers\.)\d+(?=\.)", name)
        target = TABLE.get(name.replace(f".{number[0]}.", ".{}.", 1) if number else name)
        if target is None:
            raise BadCheckpoint(f"{where}: the weight {name} has no place in a decoder; this is another kind of model")
        ours[target.format(number[0]) if number else target] = value
    return _join(ours)


def _join(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`x.0`, `x.1`, ... become `x`; where one is lacking they stay as they are, and are reported as having no place."""
    for part, count in (("attention.qkv", 3), ("gate_up", 2)):
        for name in [n for n in tensors if f".{part}.0." in n]:
            names = [name.replace(f"{part}.0.", f"{part}.{i}.") for i in range(count)]
            if all(n in tensors for n in names):
                tensors[name.replace(f"{part}.0.", f"{part}.")] = torch.cat([tensors.pop(n) for n in names])
    return tensors
