"""Streamed text: joined it is the decoding of everything, no character is split, no stop string is shown."""

from __future__ import annotations

import random
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vivavoce.speech.llm.detokenize import StopStrings, TextStream

TEXTS = [
    "Hello, world!  Two spaces.",
    "naïve café — “quotes”…",
    "日本語とеще и 한국어",
    "🙂👩‍👩‍👧‍👦 🇨🇭!",
    "a\n\n  b\t c",
]


@cache
def tokenizer(kind: str) -> Tokenizer:
    """byte: byte-level BPE (Qwen, Llama 3); fallback: words with `▁` and bytes for the rest (Llama 2)."""
    if kind == "byte":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=290, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
        )
        made.train_from_iterator(TEXTS[:3], trainer)
        return made
    vocabulary = {"<unk>": 0} | {f"<0x{i:02X}>": i + 1 for i in range(256)}
    for piece in ["▁", *"abcdefghijklmnopqrstuvwxyzHTW,.!", "▁H", "el", "lo"]:
        vocabulary.setdefault(piece, len(vocabulary))
    made = Tokenizer(
        models.BPE(vocabulary, [("▁", "H"), ("e", "l"), ("l", "o")], byte_fallback=True, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])  # fmt: skip
    made.add_special_tokens(["<end>"])
    return made


def special(kind: str, token: str) -> int:
    found = tokenizer(kind).token_to_id(token)
    assert found is not None
    return found


def pieces(kind: str, ids: list[int], *, together: int = 1) -> list[str]:
    stream = TextStream(tokenizer(kind))
    return [*(stream.push(ids[i : i + together]) for i in range(0, len(ids), together)), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte", "fallback"])
def test_pieces_join_to_the_text_and_no_character_is_split(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text).ids
    assert len(ids) > len(text) / 3
    parts = pieces(kind, ids)
    assert "".join(parts) == tokenizer(kind).decode(ids) == text
    assert not any("\ufffd" in part for part in parts)
    assert "".join(pieces(kind, ids, together=5)) == text


@pytest.mark.parametrize("kind", ["byte", "fallback"])
def test_text_comes_as_soon_as_its_characters_are_whole(kind: str) -> None:
    ids = tokenizer(kind).encode("abc日").ids
    parts = pieces(kind, ids)
    shown = ["".join(parts[: i + 1]) for i in range(len(ids))]
    assert shown[-1] == "abc日"
    assert shown[-2] == shown[-3] == "abc"


def test_special_tokens_are_not_shown_unless_asked_for() -> None:
    made = tokenizer("byte")
    ids = [*made.encode("Hello").ids, special("byte", "<end>")]
    assert "".join(pieces("byte", ids)) == "Hello"
    assert TextStream(made, skip_special=False).push(ids) == "Hello<end>"


@pytest.mark.parametrize("seed", range(5))
def test_bytes_that_are_no_text_come_out_as_the_decoder_gives_them(seed: int) -> None:
    rng, made = random.Random(seed), tokenizer("byte")
    ids = [rng.randrange(made.get_vocab_size()) for _ in range(80)]
    assert "".join(pieces("byte", ids)) == made.decode(ids)


def test_bytes_that_are_no_text_hide_nothing_that_follows() -> None:
    made = tokenizer("fallback")
    ids = [*made.encode("Hello 日").ids, special("fallback", "<0xFF>"), *made.encode("world.").ids]
    assert "".join(pieces("fallback", ids)) == "Hello 日\ufffd world."


def test_an_unfinished_character_at_the_end_is_shown_as_broken() -> None:
    ids = tokenizer("byte").encode("ab🙂").ids[:-1]
    assert pieces("byte", ids)[-1] == "\ufffd"


def test_hours_of_text_cost_no_more_a_token() -> None:
    stream, made = TextStream(tokenizer("byte")), tokenizer("byte")
    for _ in range(300):
        stream.push(made.encode("naïve café ").ids)
    assert len(stream._ids) < 20


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_are_found_however_the_text_is_cut(seed: int) -> None:
    rng, stops = random.Random(seed), ["aab", "ba", "\n\n"]
    text = "".join(rng.choice("aaab\n ") for _ in range(rng.randint(0, 12)))
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    expected = text[: min(at for end, at in ends if end == min(ends)[0])] if ends else text
    matcher, out, at = StopStrings(stops), "", 0
    while at < len(text):
        n = rng.randint(1, 4)
        out += matcher.push(text[at : at + n])
        at += n
    assert matcher.stopped == bool(ends)
    assert out + matcher.finish() == expected


def test_text_that_cannot_become_a_stop_is_shown_at_once() -> None:
    matcher = StopStrings(["END"])
    assert [matcher.push(t) for t in ("abcE", "N", "x", "E", "ND", "more")] == ["abc", "", "ENx", "", "", ""]
    assert matcher.stopped
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])
