"""Weight files: what is packed unpacks to within its precision, and an index cannot lead out of its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vivavoce.speech import weights
from vivavoce.speech.errors import BadCheckpoint


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(1, 4, 3), nn.BatchNorm1d(5))
    made[2].running_var.fill_(1e6)  # type: ignore[union-attr, operator]
    return made


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 250)])
def test_unpacked_weights_are_those_packed(dtype: weights.Precision, error: float) -> None:
    full = weights.unpack(weights.pack(network(), dtype))
    state = network().state_dict()
    assert full.keys() == state.keys()
    for name, want in state.items():
        assert (full[name] - want).abs().max() <= error * want.abs().max(), name
        assert full[name].dtype == want.dtype


def test_int8_keeps_vectors_in_half_and_buffers_whole() -> None:
    packed = weights.pack(network(), "int8")
    assert packed["0.weight"].dtype == packed["1.weight"].dtype == torch.int8
    assert packed["0.weight" + weights.SCALE].shape == (5,)
    assert packed["0.bias"].dtype == torch.float16
    assert packed["2.running_var"].dtype == torch.float32
    assert packed["2.num_batches_tracked"].dtype == torch.int64


def test_a_row_of_zeros_stays_zero() -> None:
    linear = nn.Linear(4, 2)
    linear.weight.data[0] = 0
    full = weights.unpack(weights.pack(linear, "int8"))
    assert not full["weight"][0].any()
    assert full["weight"].isfinite().all()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / weights.WEIGHTS
    weights.write({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"expected torch\.Tensor"):
        weights.write({"a": [1, 2]}, path)  # type: ignore[dict-item]
    assert torch.equal(weights.read(tmp_path)["a"], torch.ones(2))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "missing.safetensors", 3])
def test_a_shard_must_be_a_file_of_the_folder(tmp_path: Path, name: object) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / weights.SHARDS).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BadCheckpoint, match=r"shard .* is missing"):
        weights.read(folder)


def test_an_index_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / weights.SHARDS).write_text("[]")
    with pytest.raises(BadCheckpoint, match=r"index\.json: not an index"):
        weights.read(tmp_path)


def test_a_weight_file_can_be_read_by_everyone(tmp_path: Path) -> None:
    weights.write({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
