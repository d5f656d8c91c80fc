"""Reading and writing weight files: safetensors, whole or in shards, in float32, float16 or int8.

What a checkpoint holds once read, in our own names, is `Parts`; checkpoint.py makes a model of them. Every way a file
can be wrong is a BadCheckpoint that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .asr.model import AsrConfig
from .errors import BadCheckpoint

Precision = Literal["float32", "float16", "int8"]
Tensors = dict[str, Tensor]

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
SCALE = ".row_scale"  # `x.row_scale` is what row i of the int8 tensor `x` is multiplied by


class Parts(NamedTuple):
    """A checkpoint of any format once read: its configuration, its weights under our names, its tokenizer."""

    config: AsrConfig
    tensors: Tensors
    tokenizer: Tokenizer


def pack(model: nn.Module, dtype: Precision) -> Tensors:
    """The model's state for a file. int8: one scale a row for whatever has rows, float16 for the other parameters.

    Buffers (running means and variances) keep their own precision: a variance may be outside float16.
    """
    buffers = dict(model.named_buffers())
    packed: Tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        if dtype == "float32" or name in buffers:
            packed[name] = value.float() if value.is_floating_point() else value
        elif dtype == "int8" and value.dim() >= 2:
            packed[name], packed[name + SCALE] = _quantise(value.float())
        else:
            packed[name] = value.half()
    return packed


def unpack(tensors: Mapping[str, Tensor]) -> Tensors:
    """Undo `pack`: everything of floating point as float32."""
    full: Tensors = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            value = value.float() * scale.float().reshape(-1, *[1] * (value.dim() - 1))
        full[name] = value.float() if value.is_floating_point() else value
    return full


def _quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (dim 0) of x as int8 in -127 to 127, and the scale of each, (rows,) float32."""
    scale = (x.flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
    return torch.round(x / scale.reshape(-1, *[1] * (x.dim() - 1))).to(torch.int8), scale


def write(tensors: Tensors, path: Path) -> None:
    """Atomic: a reader sees the old file or the new one."""
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)  # save_file leaves it to its owner alone, and a package is installed for everyone
    part.replace(path)


def read(folder: Path) -> Tensors:
    """Every tensor of `model.safetensors`, or of the shards its index names. Raises BadCheckpoint."""
    tensors: Tensors = {}
    for path in weight_files(folder):
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as e:
            raise BadCheckpoint(f"{path}: truncated or not a safetensors file ({e}); fetch or export it again") from e
    return tensors


def weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / SHARDS
    if not index.is_file():
        raise BadCheckpoint(f"{folder}: {WEIGHTS} is missing; fetch the checkpoint again, all of it")
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadCheckpoint(f"{index}: not an index of weight shards ({e}); fetch it again") from e
    return [_shard(folder, name) for name in names]


def _shard(folder: Path, name: object) -> Path:
    """A shard's path: a plain name of a file in the folder, whatever the index says."""
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        raise BadCheckpoint(f"{folder}: the shard {name!r} is missing; fetch the checkpoint again, all of it")
    return folder / name


def count_parameters(folder: Path) -> int:
    """From the headers of the weight files alone."""
    total = 0
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                names = [n for n in file.keys() if not n.endswith(SCALE)]  # noqa: SIM118 - not a dict
                total += sum(torch.Size(file.get_slice(n).get_shape()).numel() for n in names)
        except (SafetensorError, OSError) as e:
            raise BadCheckpoint(f"{path}: truncated or not a safetensors file ({e}); fetch it again") from e
    return total


def fit(model: nn.Module, tensors: Tensors, where: str) -> None:
    """Give the model these weights. Raises BadCheckpoint for a weight missing, left over, or of another shape."""
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing:
        raise BadCheckpoint(
            f"{where}: {len(missing)} weights are missing, {missing[0]} first; the weights do not "
            "belong to this configuration"
        )
    if extra:
        raise BadCheckpoint(
            f"{where}: {len(extra)} weights have no place in the model, {extra[0]} first; the weights "
            "do not belong to this configuration"
        )
    for name, value in wanted.items():
        if value.shape != tensors[name].shape:
            raise BadCheckpoint(
                f"{where}: {name} is {tuple(tensors[name].shape)}, the configuration says "
                f"{tuple(value.shape)}; they come from different models"
            )
    model.load_state_dict(tensors, assign=True)
