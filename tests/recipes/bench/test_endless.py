"""`vivavoce bench endless`: perplexity by policy is that of one pass, whatever the parts; the state keeps its size."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vivavoce.recipes.bench import endless
from vivavoce.recipes.bench.endless import main, overall, parts, policies
from vivavoce.recipes.train.backbone.data import TEMPLATE, train_tokenizer
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.llm.chat import ChatTemplate
from vivavoce.speech.llm.config import LlmConfig
from vivavoce.speech.llm.decoder import Decoder
from vivavoce.speech.llm.hub import save
from vivavoce.speech.llm.model import LanguageModel
from vivavoce.streaming.cache_policy import KeepAll


def decoder(vocabulary: int = 30) -> Decoder:
    torch.manual_seed(0)
    return Decoder(LlmConfig(vocabulary, 16, 2, 2, 1, 8, 24, tied=True)).eval()


def test_perplexity_is_that_of_one_pass_whatever_the_parts() -> None:
    model, stream = decoder(), torch.randint(0, 30, (101,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = math.exp(float(F.cross_entropy(model.logits(model(stream[None, :-1]))[0], stream[1:])))
    for every in (17, 100):
        found = list(parts(LanguageModel(model, KeepAll(window=128, slack=12)), stream, every))
        assert sum(p.tokens for p in found) == 100
        assert overall(found) == pytest.approx(expected, rel=1e-5)


def test_the_state_does_not_grow() -> None:
    stream = torch.randint(0, 30, (700,), generator=torch.Generator().manual_seed(1))
    for policy in policies(32).values():
        sizes = {p.state for p in parts(LanguageModel(decoder(), policy), stream, 200)}
        assert len(sizes) == 1


def test_every_policy_sees_as_much() -> None:
    assert {policy.visible for policy in policies(64).values()} == {64}


def test_the_command_prints_a_table_and_draws_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(["a line of prose"], 280)
    save(decoder(300), tmp_path / "model", tokenizer=tokenizer, template=ChatTemplate(TEMPLATE))
    words = ["--model", str(tmp_path / "model"), "--data", str(tmp_path), "--tokens", "300", "--window", "32",
             "--every", "100", "--threads", "1", "--start", "60",
             "--plot", str(tmp_path / "docs" / "endless.png")]  # fmt: skip
    with pytest.raises(BadConfig, match="no such corpus"):
        main(words)
    (tmp_path / "text").mkdir()
    with lzma.open(tmp_path / "text" / endless.CORPUS, "wt") as f:
        f.writelines("a line of prose\n" for _ in range(100))
    pytest.importorskip("matplotlib", reason="the plot needs it; ./setup test installs it")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "300" in printed
    assert printed.count("start") == 2
    assert (tmp_path / "docs" / "endless.png").stat().st_size > 1000
