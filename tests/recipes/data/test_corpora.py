"""Text corpora: three formats, pieces no longer than asked, the shares, and no dev sentence."""

from __future__ import annotations

import itertools
import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vivavoce.recipes.data import corpora
from vivavoce.recipes.data.exclude import DevSentences
from vivavoce.speech.errors import BadConfig

NOBODY = DevSentences.from_texts(())


def _xz(file: Path, text: str) -> Path:
    with lzma.open(file, "wt", encoding="utf-8") as f:
        f.write(text)
    return file


def test_lines_first_columns_and_dialogue_turns_are_read(tmp_path: Path) -> None:
    turns = json.dumps({"turns": [{"role": "user", "text": "Hi there."}, {"role": "assistant", "text": "Hello!"}]})
    assert list(corpora.raw_lines(_xz(tmp_path / "a.txt.xz", "One.\nTwo.\n"))) == ["One.", "Two."]
    assert list(corpora.raw_lines(_xz(tmp_path / "a.tsv.xz", "Bus 4.\tBus four.\n"))) == ["Bus 4."]
    assert list(corpora.raw_lines(_xz(tmp_path / "a.jsonl.xz", turns + "\n"))) == ["Hi there.", "Hello!"]


def test_a_damaged_corpus_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt.xz").write_bytes(b"not xz")
    with pytest.raises(BadConfig, match=r"a\.txt\.xz, line 0"):
        list(corpora.raw_lines(tmp_path / "a.txt.xz"))
    with pytest.raises(BadConfig, match=r"line 2.*turns"):
        list(corpora.raw_lines(_xz(tmp_path / "a.jsonl.xz", '{"turns": []}\n{"words": 3}\n')))


def test_long_lines_are_cut_without_losing_a_word_and_sentences_are_parted() -> None:
    text = " ".join(f"word{chr(97 + i % 26)}" for i in range(100))
    made = list(corpora.pieces(text, 12, np.random.default_rng(0)))
    assert " ".join(made) == text
    assert max(len(p.split()) for p in made) <= 12
    assert len({len(p.split()) for p in made}) > 2
    assert list(corpora.pieces("Good day. How are you?", 12, np.random.default_rng(0))) == ["good day", "how are you"]


def test_dev_sentences_and_repeats_are_left_out_and_the_licence_is_kept(tmp_path: Path) -> None:
    file = _xz(tmp_path / "snips_x.txt.xz", "Turn it off.\nPlay a song.\nplay a song\n")
    (tmp_path / "snips_x.txt.LICENCE.txt").write_text("FILE: x\nLICENCE: CC0 1.0\n")
    corpus = corpora.read(file, DevSentences.from_texts(["TURN IT OFF"]))
    assert corpus == corpora.Corpus("snips_x", "CC0 1.0", ("play a song",))


def test_draws_follow_the_shares_use_everything_before_repeating_and_repeat_by_seed(tmp_path: Path) -> None:
    small = corpora.Corpus("small", "", tuple(f"s{i}" for i in range(10)))
    large = corpora.Corpus("large", "", tuple(f"l{i}" for i in range(1000)))
    drawn = list(itertools.islice(corpora.draw([(small, 3.0), (large, 1.0)], seed=5), 800))
    names = Counter(c.name for _, c in drawn)
    assert 0.7 < names["small"] / 800 < 0.8
    from_small = [text for text, c in drawn if c.name == "small"]
    assert all(set(from_small[i : i + 10]) == set(small.sentences) for i in range(0, 500, 10))
    assert drawn == list(itertools.islice(corpora.draw([(small, 3.0), (large, 1.0)], seed=5), 800))
    assert drawn != list(itertools.islice(corpora.draw([(small, 3.0), (large, 1.0)], seed=6), 800))


def test_a_folder_without_corpora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="check --text-dir"):
        corpora.read_all(tmp_path, NOBODY)


def test_files_of_one_group_share_its_weight_by_size(tmp_path: Path) -> None:
    _xz(tmp_path / "novels_a.txt.xz", "one\ntwo\nthree\n")
    _xz(tmp_path / "novels_b.txt.xz", "four\n")
    shares = {c.name: share for c, share in corpora.read_all(tmp_path, NOBODY)}
    assert shares == pytest.approx({"novels_a": 0.75 * 0.25, "novels_b": 0.25 * 0.25})
