"""Configurations refuse what they do not know, and say where it stands and what it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from vivavoce.speech.config import parse, read_json, read_toml, to_dict
from vivavoce.speech.errors import BadConfig


@dataclass(frozen=True)
class Inner:
    width: int
    scale: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    kind: Literal["ctc", "rnnt", 8] = "ctc"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (0, "")
    layers: tuple[Inner, ...] = ()
    other: Inner | None = None
    mode: Literal["a", "b"] | None = None
    old: Optional[int] = None  # noqa: UP045 - the older spelling is another class
    either: int | str = 0
    causal: bool = True
    places: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes must not be empty")


def outer(**more: Any) -> Outer:
    return parse(Outer, {"name": "x", "inner": {"width": 3}} | more, "config.json")


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("inner", {"width": 5, "scale": 2}, Inner(5, 2.0)),
    ("kind", "rnnt", "rnnt"), ("kind", 8, 8),
    ("sizes", [3, 4, 5], (3, 4, 5)), ("sizes", (6,), (6,)),
    ("pair", [7, "seven"], (7, "seven")),
    ("layers", [{"width": 1}, {"width": 2}], (Inner(1), Inner(2))),
    ("other", None, None), ("other", {"width": 4}, Inner(4)),
    ("mode", "b", "b"), ("mode", None, None),
    ("old", 3, 3), ("old", None, None),
    ("either", 3, 3), ("either", "three", "three"),
    ("causal", False, False),
    ("places", {"a": 1}, {"a": 1}),
])
def test_values_of_the_right_type_arrive_as_that_type(key: str, value: Any, expected: Any) -> None:
    got = getattr(outer(**{key: value}), key)
    assert got == expected
    assert type(got) is type(expected)


def test_an_integer_is_a_float_where_one_is_wanted() -> None:
    scale = outer(inner={"width": 1, "scale": 3}).inner.scale
    assert (scale, type(scale)) == (3.0, float)


@pytest.mark.parametrize(("key", "value", "text"), [
    ("name", 3, "config.json: name is 3; it takes str"),
    ("inner", 3, "config.json: inner is 3; it takes Inner"),
    ("inner", {"width": "wide"}, "config.json: inner: width is 'wide'; it takes int"),
    ("inner", {"width": 1.5}, "inner: width is 1.5; it takes int"),
    ("inner", {"width": True}, "inner: width is True; it takes int"),
    ("inner", {"width": 1, "scale": True}, "inner: scale is True; it takes float"),
    ("kind", "tdt", "kind is 'tdt'; it takes 'ctc' or 'rnnt' or 8"),
    ("kind", 8.0, "kind is 8.0; it takes 'ctc' or 'rnnt' or 8"),
    ("kind", ["ctc"], "kind is ['ctc']; it takes 'ctc'"),
    ("sizes", 3, "sizes is 3; it takes tuple[int, ...]"),
    ("sizes", [1, "two"], "sizes[1] is 'two'; it takes int"),
    ("sizes", "12", "sizes is '12'; it takes tuple[int, ...]"),
    ("pair", [1], "pair is [1]; it takes tuple[int, str]"),
    ("pair", [1, 2], "pair[1] is 2; it takes str"),
    ("layers", [{"width": 1}, {"depth": 2}], "layers[1]: unknown key 'depth'; Inner has width, scale"),
    ("mode", "c", "mode is 'c'; it takes 'a' or 'b' or null"),
    ("old", "3", "old is '3'; it takes int or null"),
    ("either", 1.5, "either is 1.5; it takes int or str"),
    ("causal", 1, "causal is 1; it takes bool"),
    ("name", None, "name is None; it takes str"),
    ("places", {"a": "b"}, "places.a is 'b'; it takes int"),
    ("sizes", [], "config.json: sizes must not be empty"),
    ("sise", [1], "config.json: unknown key 'sise'; Outer has name, inner, kind"),
])
def test_anything_else_is_an_error_that_says_where_and_what(key: str, value: Any, text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        outer(**{key: value})
    assert text in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(BadConfig, match=r"^here: key 'inner' is missing$"):
        parse(Outer, {"name": "x"}, "here")


def test_a_configuration_survives_a_trip_through_json(tmp_path: Path) -> None:
    config = outer(layers=[{"width": 9}], mode="a", other={"width": 2}, places={"b": 2})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    assert parse(Outer, read_json(path), str(path)) == config


@pytest.mark.parametrize(("content", "text"), [
    (b"{", "not JSON"), (b"[1]", "expected a JSON object"), (b"\xff\xfe\x00", "not JSON"), (b"", "not JSON"),
])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=text) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"absent.json: cannot be read \(No such file"):
        read_json(tmp_path / "absent.json")


def test_changes_go_before_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "a"\nkind = "rnnt"\n[inner]\nwidth = 4\n')
    assert read_toml(Outer, path, ["inner.width=5", "name=b c"]) == Outer("b c", Inner(5), "rnnt")
    assert read_toml(Outer, path, ['name="7"']).name == "7"
    assert read_toml(Outer, path, ["kind="]) == Outer("a", Inner(4))
    for change, problem in (("inner.wdith=5", "unknown key 'wdith'"), ("name", "give KEY"), ("=3", "give KEY"),
                            ("name.length=3", "give KEY"), ("inner.width=[", "takes")):  # fmt: skip
        with pytest.raises(BadConfig, match=problem):
            read_toml(Outer, path, [change])


def test_toml_is_read_or_its_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("width = 4\n")
    assert read_toml(Inner, path) == Inner(4)
    for content, problem in ((b"width =", "not TOML"), (b"\xff", "not TOML"), (b"wdith = 4", "unknown key 'wdith'")):
        path.write_bytes(content)
        with pytest.raises(BadConfig, match=problem) as e:
            read_toml(Inner, path)
        assert str(path) in str(e.value)
    with pytest.raises(BadConfig, match=r"none\.toml: cannot be read"):
        read_toml(Inner, tmp_path / "none.toml")
