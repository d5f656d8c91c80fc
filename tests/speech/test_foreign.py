"""Renaming is by the table and nothing else; settings we lack are refused by name."""

from __future__ import annotations

import pytest
import torch

from vivavoce.speech.errors import BadCheckpoint
from vivavoce.speech.foreign import rename, require, section

TABLE = {
    "encoder.layers.{}.att": "encoder.layers.{}.attention",
    "encoder.layers.{}.att.query": "encoder.layers.{}.attention.q",
    "encoder.layers.{}.att.key": "encoder.layers.{}.attention.k",
    "encoder.layers.{}.att.value": "encoder.layers.{}.attention.v",
    "head": "ctc.linear",
}


def test_the_longest_entry_wins_and_layers_keep_their_numbers() -> None:
    tensors = {"encoder.layers.12.att.bias_u": torch.ones(2), "encoder.layers.3.att.query.weight": torch.ones(2, 2)}
    assert set(rename(tensors, TABLE, (), "x")) == {
        "encoder.layers.12.attention.bias_u",
        "encoder.layers.3.attention.q.weight",
    }


def test_queries_keys_and_values_become_one_and_pointwise_convolutions_linear() -> None:
    parts = {n: torch.full((2, 2), float(i)) for i, n in enumerate(("query", "key", "value"))}
    tensors = {f"encoder.layers.0.att.{n}.weight": t for n, t in parts.items()}
    ours = rename({**tensors, "head.weight": torch.ones(5, 2, 1).half()}, TABLE, (), "x")
    assert torch.equal(ours["encoder.layers.0.attention.qkv.weight"], torch.cat(list(parts.values())))
    assert ours["ctc.linear.weight"].shape == (5, 2)
    assert ours["ctc.linear.weight"].dtype == torch.float32
    assert len(ours) == 2


def test_an_unknown_weight_is_refused_and_an_ignored_one_left_out() -> None:
    tensors = {"head.bias": torch.ones(1), "loss.weight": torch.ones(1)}
    with pytest.raises(BadCheckpoint, match=r"x: the weight loss\.weight has no place"):
        rename(tensors, TABLE, (), "x")
    assert set(rename(tensors, TABLE, ("loss.",), "x")) == {"ctc.linear.bias"}


def test_a_setting_must_be_absent_or_allowed() -> None:
    require({"a": 1, "b": None}, "x", a=1, b=(2, None), c=3)
    with pytest.raises(BadCheckpoint, match=r"x: b is 5, which is not supported; only 2 or None is"):
        require({"b": 5}, "x", b=(2, None))


def test_a_missing_section_is_named() -> None:
    assert section({"a": {"b": 1}}, "a", "x") == {"b": 1}
    with pytest.raises(BadCheckpoint, match="x: the section 'c' is missing"):
        section({"a": {}}, "c", "x")
