"""A recogniser written and read back is the same one, and whatever is wrong on disk is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from vivavoce.speech import checkpoint
from vivavoce.speech.asr.model import AsrConfig, AsrModel, TransducerConfig
from vivavoce.speech.errors import BadCheckpoint, BadConfig, MissingDependency
from vivavoce.speech.nn.encoder import EncoderConfig

ENCODER = EncoderConfig(width=32, layers=2, heads=2, hidden=64, channels=8)
PIECES = 24
CONFIG = AsrConfig("tiny", ENCODER, PIECES, transducer=TransducerConfig(hidden=16, joint=12, durations=(0, 1, 2)))


def tokenizer(pieces: int = PIECES) -> Tokenizer:
    names = ["<unk>", *(f"▁{chr(97 + i % 26)}{i}" for i in range(pieces - 1))]
    return Tokenizer(models.Unigram([(name, -float(i)) for i, name in enumerate(names)], unk_id=0))


def model(config: AsrConfig = CONFIG, seed: int = 0) -> AsrModel:
    torch.manual_seed(seed)
    made = AsrModel(config).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return made


def output(of: AsrModel) -> torch.Tensor:
    pcm = torch.sin(torch.arange(12000) * 0.05)[None] * 0.3
    with torch.no_grad():
        frames, _ = of(pcm, torch.tensor([12000]), 6)
        assert of.ctc is not None
        return of.ctc(frames)  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(model(), tokenizer(), tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_read_back_is_the_same_model(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    assert loaded.model.config == CONFIG
    assert loaded.name == "tiny"
    assert loaded.source == folder
    assert loaded.pieces == [tokenizer().id_to_token(i) for i in range(PIECES)]
    torch.testing.assert_close(output(loaded.model), output(model()), rtol=0, atol=0)
    want, got = model().state_dict(), loaded.model.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[n], got[n]) for n in want)


def test_no_tensor_of_a_loaded_model_is_left_without_values(folder: Path) -> None:
    loaded = checkpoint.load(folder).model
    fresh = model()
    for (name, got), (_, want) in zip(loaded.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(got, want), name
    assert not loaded.training
    assert not any(p.is_meta for p in loaded.parameters())


@pytest.mark.parametrize(("dtype", "size", "error"), [("float16", 2.05, 0.01), ("int8", 1.35, 0.15)])
def test_smaller_precisions_shrink_the_file_and_hardly_move_the_output(
    tmp_path: Path, dtype: checkpoint.Precision, size: float, error: float
) -> None:
    wide = model(replace(CONFIG, encoder=replace(ENCODER, width=128, hidden=256)))
    checkpoint.save(wide, tokenizer(), tmp_path, dtype=dtype)
    about = checkpoint.info(tmp_path)
    assert about.size < size * about.parameters
    moved = (output(checkpoint.load(tmp_path).model) - output(wide)).abs().max()
    assert 0 < moved < error


def test_int8_rounds_every_row_by_its_own_scale(tmp_path: Path) -> None:
    made = model()
    weight = made.encoder.layers[0].ff1.up.weight.data
    weight[0] *= 1000
    checkpoint.save(made, tokenizer(), tmp_path, dtype="int8")
    got = checkpoint.load(tmp_path).model.encoder.layers[0].ff1.up.weight.data
    steps = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((got - weight).abs() <= steps * 0.501).all())


def test_saving_again_in_the_same_precision_changes_nothing(tmp_path: Path) -> None:
    checkpoint.save(model(), tokenizer(), tmp_path / "a", dtype="int8")
    checkpoint.convert(tmp_path / "a", tmp_path / "b", dtype="int8")
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-8)


def test_info_tells_size_parameters_lookaheads_and_card_without_the_weights(folder: Path) -> None:
    (folder / "README.md").write_text("# tiny\n")
    about = checkpoint.info(folder)
    assert about.parameters == sum(t.numel() for t in model().state_dict().values())
    assert about.size == (folder / "model.safetensors").stat().st_size
    assert (about.name, about.lookaheads, about.card) == ("tiny", (0, 1, 6, 13, 69), "# tiny\n")
    assert about.decoders == ("ctc", "tdt")


def test_every_shipped_model_loads_by_its_name_and_all_fit_their_budget() -> None:
    shipped = checkpoint.models()
    assert sum(m.size for m in shipped) <= 12_000_000
    for about in shipped:
        assert checkpoint.load(about.source.name).name == about.name
        assert about.card


def test_a_config_with_an_unknown_key_is_refused(folder: Path) -> None:
    edit(folder / "config.json", colour="red")
    with pytest.raises(BadConfig, match=r"config\.json.*'colour'"):
        checkpoint.load(folder)


def test_a_checkpoint_of_another_kind_is_refused_by_its_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    with pytest.raises(BadCheckpoint, match=r"another kind.*llama"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadCheckpoint, match=name.replace(".", r"\.")):
        checkpoint.load(folder)


@pytest.mark.parametrize("keep", [0, 4, 400, 20000])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: truncated"):
        checkpoint.load(folder)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: truncated"):
        checkpoint.info(folder)


def test_weights_missing_left_over_or_of_another_shape_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layers.0.ff1.up.weight"
    for change, text in (
        ({k: v for k, v in tensors.items() if k != name}, f"1 weights are missing, {name}"),
        ({**tensors, "extra": torch.zeros(1)}, "no place in the model, extra"),
        ({**tensors, name: torch.zeros(3, 4)}, rf"{name} is \(3, 4\), the configuration says \(64, 32\)"),
    ):
        save_file(change, file)
        with pytest.raises(BadCheckpoint, match=text):
            checkpoint.load(folder)


@pytest.mark.parametrize("pieces", [PIECES - 2, PIECES + 2])
def test_a_tokenizer_of_another_size_is_refused_by_load_and_save(folder: Path, tmp_path: Path, pieces: int) -> None:
    (folder / "tokenizer.json").write_text(tokenizer(pieces).to_str())
    with pytest.raises(BadCheckpoint, match=f"tokenizer has {pieces} pieces, the model {PIECES}"):
        checkpoint.load(folder)
    with pytest.raises(BadCheckpoint, match=f"tokenizer has {pieces} pieces"):
        checkpoint.save(model(), tokenizer(pieces), tmp_path / "other")


def test_a_broken_tokenizer_or_config_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: not a tokenizer"):
        checkpoint.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadConfig, match=r"config\.json: not JSON"):
        checkpoint.load(folder)


@pytest.mark.parametrize("source", ["no-such-model", "./no/such/folder", "a/b/c"])
def test_a_source_that_is_nothing_says_what_could_be_given(source: str) -> None:
    with pytest.raises(BadCheckpoint, match="no such model; give one that ships"):
        checkpoint.load(source)


def test_weights_in_shards_are_read_as_one(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.testing.assert_close(output(checkpoint.load(folder).model), output(model()), rtol=0, atol=0)
    (folder / "b.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"shard 'b\.safetensors' is missing"):
        checkpoint.load(folder)


def test_a_hub_id_is_fetched_and_read_as_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert checkpoint.load("some-one/tiny").source == folder
    assert asked == [("some-one/tiny", ["*.json", "*.jinja", "*.safetensors", "README.md"])]


def test_a_hub_that_does_not_answer_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(BadCheckpoint, match=r"owner/name: .*no route.*check the name and the network"):
        checkpoint.load("owner/name")


def test_without_huggingface_hub_a_hub_id_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match=r"owner/name.*install vivavoce\[hub\]"):
        checkpoint.load("owner/name")


def test_a_file_that_is_no_archive_says_what_to_give(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: not a model; give the folder"):
        checkpoint.load(folder / "model.safetensors")


def test_reading_our_own_layout_imports_no_optional_package(folder: Path) -> None:
    code = (
        "import sys; from vivavoce.speech import checkpoint; checkpoint.load(sys.argv[1]);"
        "print([m for m in ('huggingface_hub', 'sentencepiece', 'yaml', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
