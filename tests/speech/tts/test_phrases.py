"""Where a text is parted for speaking, while it is written."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.tts.phones import SEPARATORS
from vivavoce.speech.tts.phrases import CONTEXT, LIMITS, Phrase, Splitter
from vivavoce.speech.tts.ssml import Break, Item, Reader, Written


def items(text: str) -> list[Item]:
    reader = Reader()
    return [*reader.push(text), *reader.finish()]


def split(text: str) -> list[Phrase]:
    splitter = Splitter()
    return [phrase for item in items(text) for phrase in splitter.add(item)] + splitter.finish()


def shown(phrase: Phrase) -> str:
    return " ".join(placed.word.text for placed in phrase.words)


def phrases(text: str) -> list[str]:
    return [shown(phrase) for phrase in split(text)]


def marks(text: str) -> str:
    """The separators of all words, one after another."""
    return "".join(placed.separator for phrase in split(text) for placed in phrase.words)


# --- ends of sentences and clauses


def test_a_sentence_is_a_phrase_as_soon_as_its_last_word_is_certain() -> None:
    splitter = Splitter()
    assert splitter.add(Written("Go")) == []
    (phrase,) = splitter.add(Written("home."))
    assert shown(phrase) == "Go home."
    assert splitter.finish() == []


@pytest.mark.parametrize("sentence", [
    "Dr. Smith came.", "It cost $3.50 today.", "Ask J. R. Smith now.", "We met at 5 p.m. on time.",
    "In the U.S. we do.", "So e.g. this one.", "Look at No. 5 there.", "Main St. is long.", "He ran vs. me.",
])  # fmt: skip
def test_a_dot_inside_a_sentence_does_not_end_it(sentence: str) -> None:
    assert set(marks(sentence)[:-1]) == {" "}, split(sentence)
    assert marks(sentence)[-1] == "."


@pytest.mark.parametrize(("text", "first"), [
    ("See the U.S. The end.", "See the U.S."), ("No. We go.", "No."), ("It was I. Then he.", "It was I."),
    ("Come on Sept. 12, 1999. Bye.", "Come on Sept. 12, 1999."), ("Not before Oct. We wait.", "Not before Oct."),
    ("Wait for Acme Inc. They come.", "Wait for Acme Inc."), ("Really?! Yes.", "Really?!"), ("“Go!” he said.", "“Go!”"),
    ("It is 5. Then six.", "It is 5."), ("Stop (now). Go.", "Stop (now)."),
])  # fmt: skip
def test_a_sentence_that_ends_is_a_phrase(text: str, first: str) -> None:
    assert phrases(text)[0] == first


def test_marks_become_separators() -> None:
    assert marks("a, b; c: d— e... f") == ",;;;;."
    assert marks("one (two) three? “four” five!") == ",,? !"
    assert marks("a -- b , c") == ";,."


def test_a_comma_in_a_date_is_none_and_one_after_it_is_one() -> None:
    assert marks("May 2nd, 1999, was fine") == "  , ."
    assert marks("“On September 12, 1999 (a Sunday)”") == "   , ,"
    assert marks("take 5, please") == " ,."


@pytest.mark.parametrize(("text", "expected"), [
    ("Our numbers are 2, 4, 6, 8.", "   ,,,."), ("Open rooms 12, 1999 and 7.", "  ,  ."), ("In 1999, 20 came.", " , ."),
    ("On May 5, 10 came.", "  , ."), ("We may, 1999 times.", " , ."), ("On May 2, 19990 came.", "  , ."),
])  # fmt: skip
def test_a_comma_between_numbers_is_one(text: str, expected: str) -> None:
    assert marks(text) == expected


def test_punctuation_that_stands_alone_belongs_to_the_word_before_it_whatever_its_rate() -> None:
    for mark in ",;.?!":
        first, second = split(f'<speak><prosody rate="slow">Hello there</prosody>{mark} Next one</speak>')
        assert (shown(first), first.rate, first.words[-1].separator) == ("Hello there", 0.75, mark)
        assert (shown(second), second.rate) == ("Next one", 1.0)
    first, _ = split('<speak>Hello there <prosody rate="slow">(you)</prosody></speak>')
    assert first.words[-1].separator == ","


def test_the_next_word_decides_about_a_dot_or_comma_whatever_its_rate() -> None:
    assert marks('<speak>Acme Inc. <prosody rate="slow">is here</prosody></speak>') == "   ."
    assert marks('<speak>On May 2nd, <prosody rate="slow">1999 came</prosody></speak>') == "  , ."


def test_a_comma_ends_a_phrase_that_is_long_enough() -> None:
    first, second, *_ = phrases("Well now then, if you are sure, we may go there. Yes.")
    assert first == "Well now then,"
    assert second == "if you are sure,"
    assert phrases("Yes, sir.") == ["Yes, sir."]


def test_new_paragraphs_and_bullets_end_a_sentence_that_has_no_dot() -> None:
    text = "A title\n\nThe text\n- one thing\n- more\nof it"
    assert phrases(text) == ["A title", "The text", "one thing", "more of it"]
    assert marks("A title\n\nThe text") == " . ."


def test_a_word_that_is_to_be_read_as_nothing_is_in_no_phrase() -> None:
    splitter = Splitter()
    assert splitter.add(Written("Hello", said="...")) == splitter.add(Written("there", said="")) == []
    assert splitter.finish() == []


# --- sound has to leave


def test_the_first_phrase_ends_within_five_words_and_leaves_the_next_as_context() -> None:
    splitter = Splitter()
    given = [Written(word) for word in ("the", "little", "brown", "dog", "ran")]
    out = [splitter.add(word) for word in given]
    assert out[:4] == [[]] * 4
    (phrase,) = out[4]
    assert 3 <= len(phrase.words) < 5
    assert [*phrase.words, *phrase.after] == [*phrase.words, *splitter._words]
    assert phrase.words[-1].separator == " "


def test_it_is_cut_where_words_bind_least() -> None:
    assert phrases("They gave it to me and then left the house")[0] == "They gave it"
    assert phrases("Put the book on the table over there")[0] == "Put the book"


@pytest.mark.parametrize("text", ["It was 1999 when they came back here", "Mr. J. R. Smith came to see us",
                                  "They paid $5 million 3 times there"])  # fmt: skip
def test_numbers_and_titles_are_never_parted(text: str) -> None:
    for phrase in split(text)[:-1]:
        last = phrase.words[-1].word.text
        assert not last[-1].isdigit()
        assert "." not in last


def test_later_phrases_may_be_longer_and_remember_what_came_before() -> None:
    text = " ".join(["alpha beta gamma delta"] * 20)
    parts = split(text)
    sizes = [len(phrase.words) for phrase in parts]
    assert all(size < limit for size, (limit, _) in zip(sizes, LIMITS, strict=False))
    assert sizes[1] < 5 <= sizes[2] < 7 <= sizes[3] < 12 <= sizes[4]
    for before, phrase in pairwise(parts):
        assert phrase.before == (before.before + before.words)[-CONTEXT:]


def test_words_that_take_long_to_say_are_not_planned_again_with_every_phrase() -> None:
    for phrase in split(f"{'8' * 79} " * 20):
        assert phrase.before == phrase.after == ()
    years = split("in 1999 and 2001 and 2003 and 2005 and 2007 and 2009 and 2011 and 2013")
    assert [len(phrase.before) for phrase in years] == [min(CONTEXT, n) for n in accumulate(
        [0, *(len(phrase.words) for phrase in years[:-1])])]  # fmt: skip


def test_nothing_is_remembered_over_the_end_of_a_sentence_or_a_pause() -> None:
    assert [phrase.before for phrase in split("Go home. Now go.")] == [(), ()]
    splitter = Splitter()
    splitter.add(Written("go"))
    (cut,) = splitter.add(Break(0.5))
    assert (shown(cut), cut.pause) == ("go", 0.5)
    assert splitter.add(Written("on")) == []
    assert splitter.finish()[0].before == ()


def test_a_pause_alone_is_a_phrase_without_words() -> None:
    (phrase,) = Splitter().add(Break(0.5))
    assert (phrase.words, phrase.pause, phrase.rate) == ((), 0.5, 1.0)


def test_another_rate_is_another_phrase() -> None:
    splitter = Splitter()
    out = [splitter.add(Written("a")), splitter.add(Written("b", rate=0.5)), splitter.finish()]
    assert [[phrase.rate for phrase in phrases] for phrases in out] == [[], [1.0], [0.5]]


@pytest.mark.parametrize("text", ["", "... !!! ???", "😀 🎉", "Привет, мир!", "— – -"])
def test_what_cannot_be_spoken_makes_no_phrase(text: str) -> None:
    assert split(text) == []


TOKENS = "a the Hello, Mr. 5 $3.50 p.m. dog. run! (so) — … 1999, of and 😀 U.S. J. x;"
WORDS = st.lists(st.sampled_from(TOKENS.split()))


@given(WORDS)
def test_every_word_is_spoken_once_in_order_and_phrases_stay_short(words: list[str]) -> None:
    parts = split(" ".join(words))
    spoken = [placed.word.text for phrase in parts for placed in phrase.words]
    assert spoken == [word for word in words if any(c.isalnum() for c in word)]
    for i, phrase in enumerate(parts):
        assert all(placed.separator in SEPARATORS for placed in (*phrase.before, *phrase.words, *phrase.after))
        assert len(phrase.words) < 3 * LIMITS[min(i, len(LIMITS) - 1)][0] + 1
    if parts:
        assert parts[-1].words[-1].separator != " "
