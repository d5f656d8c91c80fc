"""Checkpoints that transformers wrote with random weights give transformers' own logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from vivavoce.speech.errors import BadCheckpoint, BadConfig
from vivavoce.speech.llm import hub
from vivavoce.speech.llm.chat import ChatTemplate
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.streaming.cache_policy import KeepAll

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 256}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
KINDS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SMALL, rope_theta=1e6)),
    "qwen2 tied": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SMALL, head_dim=12, tie_word_embeddings=True)),
    "qwen3 biased": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SMALL, head_dim=8, attention_bias=True)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, rms_norm_eps=1e-5)),
    "llama 3": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama biased": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True)),
    "llama one head": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL | {"num_key_value_heads": 4})),
}


def randomise(model: torch.nn.Module) -> None:
    """Weights, biases and norms that all matter."""
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=draw) * (0.25 if weight.dim() > 1 else 0.3)
        weight.data.copy_(noise + float("norm" in name))


def write(folder: Path, kind: str = "llama", **options: Any) -> Any:
    model = KINDS[kind]()
    randomise(model)
    model.eval().save_pretrained(folder, **options)
    words = {f"w{i}": i for i in range(40)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return model


def edit(folder: Path, name: str = "config.json", **values: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | values))


TOKENS = torch.randint(0, 50, (2, 60), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = write(tmp_path, kind)
    decoder = hub.load(tmp_path).decoder
    machine = LanguageModel(decoder, KeepAll(window=60))
    with torch.no_grad():
        wanted = theirs(TOKENS).logits
        hidden, _ = machine.step(TOKENS, machine.init_state(2), torch.tensor([60, 60]), torch.tensor([True, True]))
        assert (decoder.logits(hidden) - wanted).abs().max() <= 1e-4
        assert (decoder.logits(decoder(TOKENS)) - wanted).abs().max() <= 1e-4


def test_shards_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    theirs = write(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    decoder = hub.load_decoder(tmp_path)
    with torch.no_grad():
        assert (decoder.logits(decoder(TOKENS)) - theirs(TOKENS).logits).abs().max() <= 1e-4
    shards[1].unlink()
    with pytest.raises(BadCheckpoint, match=f"shard '{shards[1].name}' is missing"):
        hub.load(tmp_path)


def test_older_files_name_the_rotary_base_apart(tmp_path: Path) -> None:
    write(tmp_path, "llama 3")
    new = hub.read_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    scaling = {k: v for k, v in values.pop("rope_parameters").items() if k != "rope_theta"}
    (tmp_path / "config.json").write_text(json.dumps(values | {"rope_theta": 5e5, "rope_scaling": scaling}))
    assert hub.read_config(tmp_path) == new
    assert new.scaling is not None
    assert new.theta == 5e5


def test_ends_come_from_the_generation_settings_first(tmp_path: Path) -> None:
    write(tmp_path)
    edit(tmp_path, eos_token_id=3)
    edit(tmp_path, "generation_config.json", eos_token_id=[4, 5])
    assert hub.read_config(tmp_path).ends == (4, 5)
    (tmp_path / "generation_config.json").unlink()
    assert hub.read_config(tmp_path).ends == (3,)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_our_own_layout_reads_back(dtype: Any, tmp_path: Path) -> None:
    write(tmp_path / "theirs", "qwen3")
    loaded = hub.load(tmp_path / "theirs")
    template = ChatTemplate("{{ messages[0].content }}{{ eos_token }}", {"eos_token": "</s>"})
    hub.save(loaded.decoder, tmp_path / "ours", tokenizer=loaded.tokenizer, template=template, dtype=dtype)
    again = hub.load(tmp_path / "ours")
    assert again.decoder.config == loaded.decoder.config
    assert again.template == template
    limit = {"float32": 0.0, "float16": 1e-3, "int8": 2e-2}[dtype]
    for (name, a), (_, b) in zip(again.decoder.named_parameters(), loaded.decoder.named_parameters(), strict=True):
        assert float(((a - b).abs().max() / b.abs().max()).detach()) <= limit, name


def test_the_dtype_asked_for_is_the_one_given(tmp_path: Path) -> None:
    write(tmp_path, "qwen2")
    decoder = hub.load(tmp_path, dtype=torch.bfloat16).decoder
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    machine = LanguageModel(decoder, KeepAll(window=60))
    hidden, _ = machine.step(TOKENS, machine.init_state(2), torch.tensor([60, 9]), torch.tensor([True, True]))
    assert hidden.dtype == torch.bfloat16
    assert hidden.isfinite().all()


@pytest.mark.parametrize(("values", "says"), [
    ({"model_type": "mamba"}, r"another kind \(mamba\); these load: llama, qwen2, qwen3"),
    ({"hidden_act": "gelu"}, "hidden_act is gelu"),
    ({"use_sliding_window": True}, "use_sliding_window is True"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is yarn"),
    ({"vocab_size": 60}, "embed.weight is .50, 32., the configuration says .60, 32."),
    ({"num_hidden_layers": 4}, "weights are missing, layers.3"),
    ({"num_hidden_layers": 2}, "no place in the model, layers.2"),
    ({"attention_bias": True}, "weights are missing, layers.0.attention"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path)
    edit(tmp_path, **values)
    with pytest.raises(BadCheckpoint, match=says):
        hub.load(tmp_path)


def test_sizes_that_are_missing_or_of_another_type_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    edit(tmp_path, hidden_size="wide")
    with pytest.raises((BadCheckpoint, BadConfig), match="width"):
        hub.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadCheckpoint, match="'vocab_size' is missing"):
        hub.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
        hub.load(tmp_path)


@pytest.mark.parametrize("values", [
    {"head_dim": None, "hidden_size": "wide"}, {"head_dim": None, "num_attention_heads": 0}, {"eos_token_id": "end"},
    {"rope_parameters": [1]}, {"rope_parameters": {"rope_type": "default", "rope_theta": "far"}},
], ids=str)  # fmt: skip
def test_a_damaged_setting_is_an_error_of_the_tree(values: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path, **values)
    with pytest.raises(BadCheckpoint, match=r"config\.json: a setting is damaged .* fetch it again"):
        hub.load(tmp_path)


def test_weights_of_a_dtype_or_name_that_is_not_ours_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, path)
    with pytest.raises(BadCheckpoint, match=f"{name} is int8; weights in float32"):
        hub.load(tmp_path)
    save_file(tensors | {"model.layers.0.block_sparse_moe.gate.weight": tensors[name].clone()}, path)
    with pytest.raises(BadCheckpoint, match=r"block_sparse_moe\.gate\.weight has no place in a decoder"):
        hub.load(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    Tokenizer(models.WordLevel({f"w{i}": i for i in range(51)}, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadCheckpoint, match="tokens up to 50, the model 50"):
        hub.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match="not a tokenizer"):
        hub.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is missing"):
        hub.load(tmp_path)
