"""Training text: written as the template writes it, held out for good, and a function of the step."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from vivavoce.recipes.train.backbone import data
from vivavoce.recipes.train.backbone.data import (
    CONTROL,
    END,
    SINK,
    TEMPLATE,
    DataConfig,
    TrainingData,
    corpora,
    documents,
    prose,
    small_talk,
    tokenizer_texts,
    train_tokenizer,
    written,
)
from vivavoce.speech.errors import BadConfig
from vivavoce.speech.llm.chat import ChatTemplate

SHARES = {"talks": 0.5, "novels_": 0.3, "small_talk": 0.2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    (root / "text").mkdir()
    said = [(f"Is it {i}?", f"It is {i}.") for i in range(120)]
    turns = [[{"role": "user", "text": a}, {"role": "assistant", "text": b}] for a, b in said]
    with lzma.open(root / "text" / "talks.jsonl.xz", "wt") as f:
        f.writelines(json.dumps({"turns": t}) + "\n" for t in turns)
    with lzma.open(root / "text" / "novels_x.txt.xz", "wt") as f:
        f.writelines(f"Line {i} of a long tale.\n" for i in range(300))
    return root


@pytest.fixture(scope="module")
def made(root: Path) -> TrainingData:
    config = DataConfig(shares=SHARES, length=24, batch=6)
    tokenizer = train_tokenizer(tokenizer_texts(root, config), 400)
    return TrainingData(config, root, tokenizer, seed=3)


def test_text_comes_back_and_a_word_is_one_token_wherever_it_stands(root: Path) -> None:
    tokenizer = train_tokenizer(["Hello there, hello you", "It is 2015, Hello"] * 5, 300)
    assert [tokenizer.token_to_id(c) for c in CONTROL] == list(range(len(CONTROL)))
    assert tokenizer.decode(tokenizer.encode("Hello there, it's 20 \u20ac!").ids) == " Hello there, it's 20 \u20ac!"
    first, later = tokenizer.encode(f"{END}Hello").ids, tokenizer.encode("there Hello").ids
    assert first[1] == later[-1]
    assert tokenizer.encode("2015").tokens[-4:] == ["2", "0", "1", "5"]


def test_a_dialogue_is_written_as_the_template_writes_it() -> None:
    turns = [("user", "How are you?"), ("assistant", "I'm Fine.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert SINK + written(turns, heard=False) == ChatTemplate(TEMPLATE).render(messages, reply=False)
    assert written(turns, heard=True) == "<|user|>how are you<|end|><|assistant|>I'm Fine.<|end|>"


def test_rows_begin_with_the_sink_and_depend_on_the_step_alone(made: TrainingData) -> None:
    assert made.batch(5).shape == (6, 25)
    assert bool((made.batch(5)[:, 0] == made.sink).all())
    assert made.batch(5).tolist() == made.batch(5).tolist()
    assert made.batch(5).tolist() != made.batch(6).tolist()


def test_sources_come_by_their_shares(made: TrainingData) -> None:
    assert dict(zip([s.name for s in made.sources], made.weights.round(6).tolist(), strict=True)) == {
        "talks": 0.5, "novels_x": 0.3, "small_talk": 0.2}  # fmt: skip


def test_what_is_held_out_is_not_trained_on(made: TrainingData) -> None:
    held = made.held_out(rows=4)
    assert set(held) == {"talks", "novels_x"}
    talks = next(s for s in made.sources if s.name == "talks")
    n = len(talks.held) // 3
    assert n > 0
    windows = np.lib.stride_tricks.sliding_window_view(talks.tokens, len(talks.held[:n]))
    assert not (windows == talks.held[:n]).all(1).any()


def test_the_end_of_a_long_book_is_held_out_and_is_what_prose_gives(
    root: Path, made: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "BOOK", 20)
    tokenizer = train_tokenizer(["Line 1 of a long tale."], 300)
    source = TrainingData(DataConfig(shares={"novels_": 1.0}), root, tokenizer).sources[0]
    text = tokenizer.decode(source.held.tolist())
    assert text.strip().startswith("Line 280 ")
    streamed = tokenizer.decode(prose(root / "text" / "novels_x.txt.xz", tokenizer, lines=20).tolist())
    assert streamed == text


def test_tokens_that_were_kept_give_the_same_rows(root: Path, tmp_path: Path) -> None:
    config = DataConfig(shares=SHARES, length=24, batch=6)
    tokenizer = train_tokenizer(["Line 1 of a long tale."], 300)
    first = TrainingData(config, root, tokenizer, kept=tmp_path / "tokens")
    again = TrainingData(config, root, tokenizer, kept=tmp_path / "tokens")
    assert len(list((tmp_path / "tokens").iterdir())) == 3
    assert first.summary == again.summary
    assert first.batch(1).tolist() == again.batch(1).tolist()


def test_tokens_that_were_kept_keep_their_shares_whatever_the_files_are_called(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for name, lines in {"novels_b.v1": 20, "novels_b.v2": 300, "my-notes": 20}.items():
        with lzma.open(tmp_path / "text" / f"{name}.txt.xz", "wt") as f:
            f.writelines(f"Line {i} of a long tale.\n" for i in range(lines))
    config = DataConfig(shares={"novels_": 0.5, "my-": 0.5}, length=24, batch=6)
    tokenizer = train_tokenizer(["Line 1 of a long tale."], 300)
    first, again = (TrainingData(config, tmp_path, tokenizer, kept=tmp_path / "tokens") for _ in range(2))
    assert first.summary == again.summary == TrainingData(config, tmp_path, tokenizer).summary
    assert first.weights.tolist() == again.weights.tolist()
    assert sorted(len(s.tokens) for s in first.sources)[-1] > 5 * min(len(s.tokens) for s in first.sources)


def test_small_talk_answers_everything_it_hears() -> None:
    talk = small_talk()
    assert len(talk) > 1000
    assert all([role for role, _ in turns] == ["user", "assistant"] for turns in talk)
    assert len(documents(None, DataConfig(), 0)) == 2 * len(talk)


def test_what_is_not_there_or_is_no_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="no corpus begins with 'talks'"):
        corpora(tmp_path, DataConfig(shares=SHARES))
    for name in ("a.jsonl.xz", "b.txt.xz"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(BadConfig, match=name):
            documents(tmp_path / name, DataConfig(), 0)
