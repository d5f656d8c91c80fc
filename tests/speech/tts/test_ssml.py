"""Text with and without markup, read in any pieces."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivavoce.speech.errors import BadSpeech
from vivavoce.speech.tts.ssml import LONGEST, Break, Item, Reader, Written


def read(text: str) -> list[Item]:
    reader = Reader()
    return [*reader.push(text), *reader.finish()]


def words(text: str) -> list[str]:
    return [item.text for item in read(text) if isinstance(item, Written)]


def test_words_come_with_their_punctuation_as_soon_as_a_space_follows() -> None:
    reader = Reader()
    assert reader.push("Hello,") == []
    assert reader.push(" wor") == [Written("Hello,")]
    assert reader.push("ld") == []
    assert reader.finish() == [Written("world")]


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u200b"])
def test_nothing_gives_no_word_worth_saying(text: str) -> None:
    assert words(text) in ([], ["\u200b"])


def test_dashes_and_ellipses_part_what_stands_without_spaces() -> None:
    assert words("yes—no well...maybe one--two “so…”") == ["yes—", "no", "well...", "maybe", "one--", "two", "“so…”"]


def test_blank_lines_and_bullets_begin_afresh() -> None:
    items = read("one\ntwo\n\nthree\n- four\n2. five")
    assert [item.text for item in items if isinstance(item, Written) and item.fresh] == ["three", "-", "2."]


def test_what_has_no_spaces_is_read_in_pieces() -> None:
    assert words("x" * (2 * LONGEST + 5)) == ["x" * LONGEST, "x" * LONGEST, "xxxxx"]


# --- [word|phonemes]


def test_a_word_may_say_how_it_is_spoken() -> None:
    first, second, third = read("[Viva|V IY1 V AH0] “[Voce|ˈvoʊtʃeɪ],” [x|/vivə/].")
    assert first == Written("Viva", phones=("V", "IY1", "V", "AH0"))
    assert second == Written("“Voce,”", phones=("V", "OW1", "CH", "EY0"))
    assert third == Written("x.", phones=("V", "IY1", "V", "AH0"))


VIVA = "[Viva|V IY1 V AH0]"
PHONES = ("V", "IY1", "V", "AH0")


@pytest.mark.parametrize(("after", "expected"), [
    ("-based,", [Written("Viva-", phones=PHONES), Written("based,")]),
    ("—yes...no", [Written("Viva—", phones=PHONES), Written("yes..."), Written("no")]),
    ("-50%.", [Written("Viva-", phones=PHONES), Written("50%.")]),
    ("’s, ", [Written("Viva’s,", phones=(*PHONES, "Z"))]),
    ("s!", [Written("Vivas!", phones=(*PHONES, "Z"))]),
    ("'ll", [Written("Viva'll", phones=(*PHONES, "L"))]),
    ("'s-eye", [Written("Viva's-", phones=(*PHONES, "Z")), Written("eye")]),
    ("'so", [Written("Viva'", phones=PHONES), Written("so")]),
    ("(s).com", [Written("Viva", phones=PHONES), Written("(s).com")]),
    ("...?”)", [Written("Viva...", phones=PHONES), Written("?”)")]),
    ("-", [Written("Viva-", phones=PHONES)]),
    (VIVA + ".", [Written("Viva", phones=PHONES), Written("Viva.", phones=PHONES)]),
    ("/“[Voce|V OW1]”s", [Written("Viva/", phones=PHONES), Written("“Voce”", phones=("V", "OW1")), Written("s")]),
])  # fmt: skip
def test_what_stands_directly_after_such_a_word_is_spoken(after: str, expected: list[Item]) -> None:
    assert read(VIVA + after) == expected


@pytest.mark.parametrize("before", ["un", "hello—", "a[b]", "[see page|tables]", "[", "x" * (LONGEST - 3), "é" * 9])
def test_such_a_word_may_stand_directly_after_others(before: str) -> None:
    *others, last = read(before + "(" + VIVA + ") x")[:-1]
    assert last == Written("(Viva)", phones=PHONES)
    assert others == read(before)


@pytest.mark.parametrize("text", ["[a|bc]", "[see page|tables]", "[x|]", "[|x]", "[open", "a [b", "[a|b c", "x|y"])
def test_brackets_that_hold_no_phonemes_are_text(text: str) -> None:
    assert words(text) == text.split()


# --- SSML


def speech(inside: str) -> list[Item]:
    return read(f"<speak>{inside}</speak>")


def test_breaks_and_rates() -> None:
    assert speech('a <break time="300ms"/> b <break strength="strong"/><break time="1.5s"></break>') == [
        Written("a"), Break(0.3), Written("b"), Break(0.7), Break(1.5),
    ]  # fmt: skip
    slow = speech('<prosody rate="50%">a <prosody rate="slow">b</prosody></prosody> <prosody rate="1.5">c</prosody>')
    rates = [(item.text, item.rate) for item in slow if isinstance(item, Written)]
    assert rates == [("a", 0.5), ("b", 0.5), ("c", 1.5)]


def test_what_is_read_instead() -> None:
    assert speech('<sub alias="World Wide Web">WWW</sub>.') == [Written("WWW.", said="World Wide Web")]
    assert speech('<say-as interpret-as="digits">42</say-as>') == [Written("42", said="four two")]
    phoneme = '<phoneme alphabet="ipa" ph="t&#x259;ˈmɑːtəʊ">tomato</phoneme>'
    assert speech(phoneme) == [Written("tomato", phones=("T", "AH0", "M", "AA1", "T", "OW0"))]


def test_what_stands_directly_after_an_element_is_spoken() -> None:
    web = '<sub alias="World Wide Web">WWW</sub>'
    assert speech(web + "-based") == [Written("WWW-", said="World Wide Web"), Written("based")]
    assert speech(web + "&apos;s.") == [Written("WWW's.", said="World Wide Web's")]
    assert speech(web + "s") == [Written("WWWs", said="World Wide Web's")]
    assert speech('<say-as interpret-as="cardinal">5</say-as>%,') == [Written("5", said="five"), Written("%,")]
    assert speech('<phoneme ph="B AH1 S">bus</phoneme>\'s') == [Written("bus's", phones=("B", "AH1", "S", "IH0", "Z"))]
    assert speech(web + VIVA) == [Written("WWW", said="World Wide Web"), Written("Viva", phones=PHONES)]
    assert speech("[AT&amp;T|EY1]&quot;") == [Written('AT&T"', phones=("EY1",))]


def test_what_is_read_instead_of_a_long_text_may_be_short() -> None:
    assert speech(f'<sub alias="a table">{"| " * 300}</sub>') == [Written(("| " * 300).strip(), said="a table")]


def test_paragraphs_and_sentences_end_sentences_and_entities_are_characters() -> None:
    assert speech("<p><s>AT&amp;T</s></p> x&lt;y") == [
        Break(sentence=True), Break(sentence=True), Written("AT&T"), Break(sentence=True), Break(sentence=True),
        Written("x<y"),
    ]  # fmt: skip


def test_a_byte_order_mark_at_the_beginning_is_no_text() -> None:
    assert words("\ufeff<speak>hi</speak>") == ["hi"]
    assert words("\ufeffhi") == ["hi"]
    assert words("a\ufeff") == ["a\ufeff"]


def test_entities_stay_whole_where_what_has_no_spaces_is_cut() -> None:
    for before in range(LONGEST - 8, LONGEST + 1):
        assert "".join(words("<speak>" + "x" * before + "&hellip;&#x26;y</speak>")) == "x" * before + "…&y"
        assert "".join(words("<speak>" + "x" * before + "&co</speak>")) == "x" * before + "&co"


def test_a_prologue_and_name_spaces_are_allowed() -> None:
    text = '<?xml version="1.0"?>\n<speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis">hi<!-- x -->'
    assert words(text + "</speak>\n") == ["hi"]


def test_comments_are_not_read_whatever_they_hold_and_cdata_is_read_as_it_stands() -> None:
    assert words("<speak><!-- a > b --> Hi <!-- <s>old</s> --><!---->the<!-- -->re</speak>") == ["Hi", "there"]
    assert words("<speak><![CDATA[5 < 6 &amp; <p>]]>x<![CDATA[]]></speak>") == ["5", "<", "6", "&amp;", "<p>x"]
    assert speech('<sub alias="you">m<!-- <p> --><![CDATA[<e>]]></sub>') == [Written("m<e>", said="you")]
    assert words("<speak>a</speak> <!-- the end -->") == ["a"]
    assert words("a <!-- b --> c") == ["a", "<!--", "b", "-->", "c"]


def test_without_speak_a_tag_is_text() -> None:
    assert words("a < b <break/>") == ["a", "<", "b", "<break/>"]


@pytest.mark.parametrize(("text", "cure"), [
    ("<speak>hello", "</speak>"),
    ("<speak><prosody rate='fast'>hello</speak>", "</prosody>"),
    ("<speak>hello</prosody></speak>", "</speak>"),
    ("<speak></speak></speak>", "no closing tag"),
    ("<speak>a</speak> b", "one <speak>"),
    ("<speak>a</speak><break/>", "one <speak>"),
    ("<speak><speak>a</speak></speak>", "outermost"),
    ("<speak><emphasis>a</emphasis></speak>", "break, p, phoneme"),
    ("<speak><break time='5 minutes'/></speak>", "300ms"),
    ("<speak><break time='60s'/></speak>", "10s"),
    ("<speak><break strength='odd'/></speak>", "x-strong"),
    ("<speak><break pitch='1'/></speak>", "time and strength"),
    ("<speak><prosody rate='9'>a</prosody></speak>", "50% to 200%"),
    ("<speak><prosody rate=fast>a</prosody></speak>", 'name="value"'),
    ("<speak><sub>a</sub></speak>", "alias"),
    ("<speak><sub alias=''>a</sub></speak>", "alias"),
    ("<speak><sub alias=' '>a</sub></speak>", "alias"),
    (f"<speak><sub alias='{'9' * 201}'>a</sub></speak>", "200"),
    (f"<speak><say-as interpret-as='date' format='y'>{'9' * 5000}</say-as></speak>", "200"),
    (f"<speak><phoneme ph='{'AH0 ' * 51}'>a</phoneme></speak>", "200"),
    ("<speak><sub alias='x'>a<break/></sub></speak>", "</sub>"),
    ("<speak><sub alias='x'>a", "</sub>"),
    ("<speak><phoneme>a</phoneme></speak>", "ph="),
    ("<speak><phoneme ph='123'>a</phoneme></speak>", "ARPAbet"),
    ("<speak><say-as interpret-as='poem'>a</say-as></speak>", "cardinal"),
    ("<speak>a < b</speak>", "&lt;"),
    ("<speak>a <break", "&lt;"),
    ("<speak>a</speak><", "&lt;"),
    ("<speak>a <!-- b > c</speak>", "-->"),
    ("<speak>a <![CDATA[b > c</speak>", "]]>"),
    ("<speak>a <!x</speak", "where it does"),
    ("<speak>a</speak><![CDATA[b]]>", "one <speak>"),
])  # fmt: skip
def test_wrong_ssml_is_an_error_that_says_what_to_write(text: str, cure: str) -> None:
    with pytest.raises(BadSpeech) as e:
        read(text)
    assert "SSML" in str(e.value) or "ARPAbet" in str(e.value)
    assert cure in str(e.value)


# --- any pieces

TEXTS = [
    "Hello there, Mr. Smith! [Viva|V IY1 V AH0] “[Voce|ˈvoʊtʃeɪ],” [see page|tables] yes—no… $3.50\n\n- one 😀",
    "<speak version='1'>a <break time=\"300ms\"/> b<sub alias='World Wide Web'>WWW</sub>. <p>c &amp; d</p>"
    '<prosody rate="slow">e <say-as interpret-as="ordinal">3</say-as> f</prosody></speak>',
    "<?xml ?><!-- <p> > --><speak>a<!-- x -->b <!-><!--->--> <![CDATA[<c> &amp; ]]]>d<![CDATA[ ]]>e</speak>",
    "[Viva|V IY1 V AH0]'s [Viva|V IY1 V AH0]-based hello—[Viva|V IY1 V AH0]'ll [a|AH0][b|B IY1]'so [x",
    "un“[Viva|V IY1 V AH0]”[a|b c" + '"' * 12 + "[a|AH0]" + "y" * (LONGEST - 3) + '""[a|AH0]ies [[c|d]] e[f]',
    "<speak><sub alias='World Wide Web'>WWW</sub>&apos;s<sub alias='x'>y</sub>-b [Viva|V IY1]&#39;l&#108; c</speak>",
    "[a|bc [Viva|V IY1 V AH0]x “ ( [x " + "y" * 200,
    "  <spea k> is no markup",
    "\ufeff<speak>a" + "x" * (LONGEST - 3) + "&amp;y" + "&lt;" * 100 + "</speak>",
    "\ufeff\ufeff hi",
]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_do_not_matter(text: str) -> None:
    whole = read(text)
    for seed in range(60):
        rng, reader, left, items = random.Random(seed), Reader(), text, list[Item]()
        while left:
            n = rng.choice([1, 1, 2, 3, 8, 50])
            items += reader.push(left[:n])
            left = left[n:]
        assert items + reader.finish() == whole


PIECES = [
    VIVA, "[a|", "B]", "[", "|", "'", "s", "ll", '"', "(", "—", "...", "-", "5%", " ", "\n\n", "x" * (LONGEST - 4),
    "&amp;", "&", ";", "<break/>", "<!--", "-->", "<![CDATA[", "]]>", "<", "<sub alias='y'>", "</sub>",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
def test_characters_one_by_one_are_read_or_refused_like_the_whole(pieces: list[str], ssml: bool) -> None:
    text = "".join(["<speak>", *pieces, "</speak>"] if ssml else pieces)
    reader, items, whole = Reader(), list[Item](), None
    try:
        whole = read(text)
        items = [item for character in text for item in reader.push(character)]
    except BadSpeech:
        assert whole is None
        with pytest.raises(BadSpeech):
            [reader.push(character) for character in text] + [reader.finish()]
        return
    assert items + reader.finish() == whole


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_keeps_its_characters(text: str) -> None:
    try:
        items = read(text)
    except BadSpeech:
        assert "<" in text
        return
    if "<" not in text and "|" not in text:
        said = "".join(item.text for item in items if isinstance(item, Written))
        assert said == "".join(text.lstrip("\ufeff").split())
