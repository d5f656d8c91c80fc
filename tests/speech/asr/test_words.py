"""Words: stable text only extends, times are ordered and inside the audio, and no split of the tokens matters."""

import pickle
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.asr.words import (
    FRAME_SAMPLES,
    MAX_PIECES,
    Emissions,
    OpenWord,
    Token,
    Vocabulary,
    Word,
    pack_left,
    tokens_of,
)

PIECES = ["<unk>", "▁the", "▁ca", "t", "▁", "s", ".", "<0xC3>", "<0xA9>", "▁na", "<|en|>"]
VOCABULARY = Vocabulary(PIECES)


def tokens(*spec: tuple[str, int], confidence: float = 0.9) -> list[Token]:
    return [Token(PIECES.index(piece), frame, frame + 1, confidence) for piece, frame in spec]


def run(pieces: list[Token], heard: int, cuts: list[int], vocabulary: Vocabulary = VOCABULARY) -> list[Word]:
    """Feed in parts; `heard` grows with the frames as it does live."""
    state, words = OpenWord(), []
    bounds = [0, *sorted(cuts), len(pieces)]
    for start, stop in pairwise(bounds):
        part = pieces[start:stop]
        so_far = min(heard, max((t.frame for t in pieces[:stop]), default=0) * FRAME_SAMPLES + 200)
        state, update = vocabulary.feed(state, part, so_far)
        words += update.stable
    _, update = vocabulary.feed(state, [], heard, final=True)
    assert update.tail == ""
    return words + list(update.stable)


def test_a_word_is_stable_once_the_next_begins_and_its_times_are_its_frames() -> None:
    state, update = VOCABULARY.feed(OpenWord(), tokens(("▁ca", 2), ("t", 4)), 8000)
    assert (update.stable, update.tail) == ((), "cat")
    state, update = VOCABULARY.feed(state, tokens(("s", 5), ("▁the", 9)), 16000)
    assert update.tail == "the"
    assert update.stable == (Word("cats", 2 * 1280 - 640, 5 * 1280 + 640, 0.9),)
    _, update = VOCABULARY.feed(state, [], 9 * 1280 + 100, final=True)
    assert update.stable == (Word("the", 9 * 1280 - 640, 9 * 1280 + 100, 0.9),)  # no word stops after the audio


def test_confidence_of_a_word_is_that_of_its_worst_token() -> None:
    parts = [Token(2, 0, 1, 0.8), Token(3, 1, 2, 0.3), Token(5, 2, 3, 0.6)]
    _, update = VOCABULARY.feed(OpenWord(), parts, 9999, final=True)
    assert [w.confidence for w in update.stable] == [0.3]


def test_bytes_join_into_characters_and_half_a_character_is_not_shown() -> None:
    state, update = VOCABULARY.feed(OpenWord(), tokens(("▁ca", 0), ("<0xC3>", 1)), 9999)
    assert update.tail == "ca"
    state, update = VOCABULARY.feed(state, tokens(("<0xA9>", 2)), 9999)
    assert update.tail == "caé"
    assert VOCABULARY.text([2, 7]) == "ca\N{REPLACEMENT CHARACTER}"


def test_control_pieces_and_empty_words_are_silent() -> None:
    pieces = tokens(("<|en|>", 0), ("▁", 1), ("▁the", 2), ("<unk>", 3), ("▁", 5), ("s", 5), (".", 6))
    assert [w.word for w in run(pieces, 20000, [])] == ["the", "s."]
    assert VOCABULARY.text(t.token for t in pieces) == "the s."


def test_two_words_in_one_frame_do_not_overlap() -> None:
    first, second = run(tokens(("▁ca", 3), ("▁the", 3)), 8000, [])
    assert first.start_sample < first.stop_sample == second.start_sample < second.stop_sample


def test_a_word_without_end_is_closed_so_that_memory_stays_bounded() -> None:
    state = OpenWord()
    for frame in range(1000):
        state, _ = VOCABULARY.feed(state, tokens(("s", frame)), frame * FRAME_SAMPLES)
        assert len(state.tokens) <= MAX_PIECES


def test_uncommitted_tokens_show_in_the_tail_and_are_forgotten() -> None:
    state, update = VOCABULARY.feed(OpenWord(), tokens(("▁ca", 0)), 999, unstable=tokens(("t", 1), ("▁the", 2)))
    assert update.tail == "cat the"
    _, update = VOCABULARY.feed(state, [], 999)
    assert update.tail == "ca"


def test_a_session_value_pickles_and_continues() -> None:
    state, _ = VOCABULARY.feed(OpenWord(), tokens(("▁ca", 0)), 2000)
    resumed = pickle.loads(pickle.dumps(state))
    assert VOCABULARY.feed(resumed, tokens(("t", 1)), 3000) == VOCABULARY.feed(state, tokens(("t", 1)), 3000)


@given(st.randoms(use_true_random=False))
def test_any_split_gives_the_same_ordered_words_inside_the_audio(rng: random.Random) -> None:
    frames = sorted(rng.choices(range(40), k=rng.randint(0, 30)))
    pieces = [Token(rng.randrange(len(PIECES)), f, f + rng.randint(1, 4), rng.random()) for f in frames]
    heard = (frames[-1] if frames else 0) * FRAME_SAMPLES + rng.choice([0, 200, 5000])
    whole = run(pieces, heard, [])
    assert run(pieces, heard, [rng.randrange(len(pieces) + 1) for _ in range(4)]) == whole
    edges = [0] + [x for w in whole for x in (w.start_sample, w.stop_sample)] + [heard]
    assert edges == sorted(edges)
    assert " ".join(w.word for w in whole) == VOCABULARY.text(t.token for t in pieces)


def test_pack_left_keeps_order_and_tokens_of_reads_one_row() -> None:
    keep = torch.tensor([[False, True, False, True], [False, False, False, False]])
    number = torch.arange(8).view(2, 4)
    (token, frame), count = pack_left(keep, number, number * 10)
    assert token[0, :2].tolist() == [1, 3]
    assert count.tolist() == [2, 0]
    emitted = Emissions(token, frame, frame + 1, torch.ones(2, 4))
    assert tokens_of(emitted, count, 0) == [Token(1, 10, 11, 1.0), Token(3, 30, 31, 1.0)]
    assert tokens_of(emitted, count, 1) == []


@pytest.mark.parametrize("space", ["▁", " "])
def test_either_mark_of_a_word_start_is_read(space: str) -> None:
    assert Vocabulary([f"{space}a", "b"]).text([0, 1, 0]) == "ab a"
