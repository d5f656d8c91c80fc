"""Text in, sound out: the same whatever the pushes, the company and the timing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from toy_voice import HOP, ToyVoice

from vivavoce.speech.errors import BadConfig, BadSpeech
from vivavoce.speech.tts.phones import IDS
from vivavoce.speech.tts.synthesizer import CHUNKS, Speech, Synthesizer
from vivavoce.speech.tts.voice import Plan
from vivavoce.streaming.engine import Slot
from vivavoce.streaming.errors import Full, UnknownSlot

TEXT = ("Hello there, Mr. Smith! I would like to go home now, because (it's 5 p.m. on May 2nd, 1999.) Please pay $3.50 "
        "to [Viva|V IY1 V AH0] Voce — or not... 😀 OK? The quick brown fox jumps over the lazy dog and then runs away")
SSML = ('<speak>One <break time="700ms"/>two. <prosody rate="slow">Three four</prosody> <sub alias="five">5</sub>'
        "</speak>")


@pytest.fixture
def synthesizer() -> Synthesizer:
    return Synthesizer(ToyVoice(), slots=4)


def drain(synthesizer: Synthesizer, slot: Slot) -> list[Speech]:
    """Step until the session is done or has nothing to say."""
    out = []
    while speech := synthesizer.step().get(slot):
        out.append(speech)
        if speech.done:
            break
    return out


def joined(parts: list[Speech]) -> Tensor:
    return torch.cat([part.pcm for part in parts])


def streamed(synthesizer: Synthesizer, texts: list[str], seed: int) -> list[tuple[Tensor, tuple[object, ...]]]:
    """Every text in pushes of random sizes at random times, beside the others, its seed its number."""
    rng = random.Random(seed)
    slots: dict[Slot, int] = {}
    left: dict[int, str | None] = dict(enumerate(texts))
    parts: list[list[Speech]] = [[] for _ in texts]
    waiting = list(range(len(texts)))
    while waiting or slots:
        if waiting and synthesizer.free and rng.random() < 0.5:
            i = waiting.pop(0)
            slots[synthesizer.open(seed=i)] = i
        for slot, i in slots.items():
            text = left[i]
            if text is None or rng.random() < 0.4:
                continue
            if text == "":
                synthesizer.finish(slot)
                left[i] = None
            else:
                n = rng.choice([1, 2, 5, 30])
                synthesizer.push(slot, text[:n])
                left[i] = text[n:]
        for slot, speech in synthesizer.step().items():
            parts[slots[slot]].append(speech)
            if speech.done:
                synthesizer.close(slot)
                del slots[slot]
    return [(joined(part), tuple(word for speech in part for word in speech.words)) for part in parts]


@pytest.mark.parametrize("seed", range(6))
def test_any_pushes_at_any_time_in_any_company_equal_one_push_alone(synthesizer: Synthesizer, seed: int) -> None:
    texts = [TEXT, SSML, "No.", "", TEXT[30:]]
    made = streamed(synthesizer, texts, seed)
    for i, text in enumerate(texts):
        whole = synthesizer.speak(text, seed=i)
        assert torch.equal(made[i][0], whole.pcm)
        assert made[i][1] == whole.words


def test_the_seed_decides_the_noise_and_the_rate_the_length(synthesizer: Synthesizer) -> None:
    usual = synthesizer.speak(TEXT)
    assert torch.equal(usual.pcm, synthesizer.speak(TEXT, seed=0).pcm)
    other = synthesizer.speak(TEXT, seed=1)
    assert len(other.pcm) == len(usual.pcm)
    assert not torch.equal(other.pcm, usual.pcm)
    assert len(synthesizer.speak(TEXT, rate=0.5).pcm) > 1.7 * len(usual.pcm)


def test_sound_leaves_after_five_words_in_one_step(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, "the little brown dog ran")
    assert synthesizer.step() == {}
    synthesizer.push(slot, " ")
    first = synthesizer.step()[slot]
    assert len(first.pcm) > 0
    assert first.words[0].word == "the"


def test_all_but_a_moment_of_what_is_certain_is_spoken_while_more_text_is_awaited(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, "We are at home now. ")
    made = len(joined(drain(synthesizer, slot)))
    assert synthesizer.step() == {}
    whole = synthesizer.speak("We are at home now.")
    assert len(whole.pcm) - made < 8 * HOP


def test_the_first_chunk_is_small_and_later_ones_grow_to_a_bound(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, TEXT)
    synthesizer.finish(slot)
    sizes = [len(part.pcm) // HOP for part in drain(synthesizer, slot)]
    assert sizes[0] <= 5 * CHUNKS[0]
    assert sizes[0] < max(sizes) <= 5 * CHUNKS[-1]


def test_a_phrase_that_was_waited_for_begins_with_a_small_chunk_again(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, f"{' '.join(['Nobody slept that night.'] * 9)} ")
    assert max(len(part.pcm) // HOP for part in drain(synthesizer, slot)) == 5 * CHUNKS[-1]
    synthesizer.push(slot, "Nobody slept that night. ")
    assert len(synthesizer.step()[slot].pcm) // HOP <= 5 * CHUNKS[1]


def test_words_come_with_the_sound_they_begin_in_and_lie_one_after_another(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, TEXT)
    synthesizer.finish(slot)
    made, at = 0, 0
    for speech in drain(synthesizer, slot):
        made += len(speech.pcm)
        for word in speech.words:
            assert at <= word.start_sample < word.end_sample
            assert speech.done or made - len(speech.pcm) <= word.start_sample < made
            at = word.end_sample
    assert at <= made


def test_words_are_where_their_sound_is(synthesizer: Synthesizer) -> None:
    spoken = synthesizer.speak('<speak>One <break time="700ms"/>two.</speak>')
    one, two = spoken.words
    assert (one.word, two.word) == ("One", "two.")
    silent = spoken.pcm[one.end_sample + 3 * HOP : two.start_sample - 3 * HOP]
    assert len(silent) > 0.5 * spoken.sample_rate
    assert float(silent.abs().max()) < 0.1 * float(spoken.pcm.abs().max())


def test_a_break_lasts_as_long_as_it_says(synthesizer: Synthesizer) -> None:
    with_break, without = (synthesizer.speak(f"<speak>One {tag}two.</speak>") for tag in ('<break time="2s"/>', "<p/>"))
    gap = [b.words[1].start_sample - b.words[0].end_sample for b in (with_break, without)]
    assert abs(gap[0] - 2 * 24_000) <= 6 * HOP
    assert synthesizer.speak('<speak><break time="1s"/></speak>').pcm.shape == (24_000,)


def test_the_words_around_a_cut_are_planned_together(synthesizer: Synthesizer) -> None:
    voice = ToyVoice()
    Synthesizer(voice).speak("the quick brown fox jumps over the lazy dog")
    first, second = voice.planned[:2]
    assert second[: len(first) - 5] == first[: len(first) - 5]


# --- what users do


@pytest.mark.parametrize("text", ["", " \n", "... !!!", "😀", "Привет, мир", "<speak></speak>"])
def test_nothing_to_say_is_done_at_once_without_a_sound(synthesizer: Synthesizer, text: str) -> None:
    spoken = synthesizer.speak(text)
    assert len(spoken.pcm) == 0
    assert spoken.words == ()


def test_a_text_that_stops_inside_a_word_is_spoken_to_there(synthesizer: Synthesizer) -> None:
    assert [word.word for word in synthesizer.speak("I was just going to tel").words][-1] == "tel"


def test_mixed_scripts_speak_what_can_be_spoken(synthesizer: Synthesizer) -> None:
    assert [word.word for word in synthesizer.speak("Москва is 莫斯科 in naïve English").words] == [
        "is", "in", "naïve", "English",
    ]  # fmt: skip


def test_ten_thousand_words_are_made_in_bounded_steps(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, "so it goes on and on " * 1667)
    synthesizer.finish(slot)
    for _ in range(20):
        assert len(synthesizer.step()[slot].pcm) <= 5 * CHUNKS[-1] * HOP
    assert len(synthesizer.voice.planned) < 20  # type: ignore[attr-defined]


def test_wrong_ssml_ends_one_session_and_no_other(synthesizer: Synthesizer) -> None:
    good, bad = synthesizer.open(), synthesizer.open()
    synthesizer.push(good, TEXT)
    synthesizer.push(bad, "<speak>hello")
    with pytest.raises(BadSpeech, match="</speak>"):
        synthesizer.finish(bad)
    synthesizer.step()
    synthesizer.close(bad)
    synthesizer.finish(good)
    rest = drain(synthesizer, good)
    assert rest[-1].done


def test_what_cannot_be_planned_ends_its_own_session_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = ToyVoice()

    def plan(phones: Sequence[int], *, rate: float = 1.0) -> Plan:
        if rate == 2.0:
            raise ValueError("no plan for this")
        return ToyVoice().plan(phones, rate=rate)

    monkeypatch.setattr(voice, "plan", plan)
    synthesizer = Synthesizer(voice, slots=2)
    good, bad = synthesizer.open(seed=3), synthesizer.open(rate=2.0)
    for slot in (good, bad):
        synthesizer.push(slot, TEXT)
        synthesizer.finish(slot)
    made = synthesizer.step()
    assert made[bad].done
    assert "no plan" in str(made[bad].error)
    parts = [made[good], synthesizer.step()[good]]
    synthesizer.close(bad)
    parts += drain(synthesizer, good)
    assert torch.equal(joined(parts), Synthesizer(ToyVoice()).speak(TEXT, seed=3).pcm)
    with pytest.raises(ValueError, match="no plan"):
        synthesizer.speak(TEXT, rate=2.0)


def test_a_listener_who_is_gone_leaves_the_others_as_they_were(synthesizer: Synthesizer) -> None:
    gone, stays = synthesizer.open(), synthesizer.open(seed=3)
    for slot in (gone, stays):
        synthesizer.push(slot, TEXT)
        synthesizer.finish(slot)
    parts = [synthesizer.step()[stays] for _ in range(3)]
    synthesizer.close(gone)
    again = synthesizer.open(seed=4)
    synthesizer.push(again, "another one")
    parts += drain(synthesizer, stays)
    assert torch.equal(joined(parts), synthesizer.speak(TEXT, seed=3).pcm)
    with pytest.raises(UnknownSlot):
        synthesizer.push(gone, "late")


def test_a_full_synthesizer_says_so_and_a_place_comes_free(synthesizer: Synthesizer) -> None:
    slots = [synthesizer.open() for _ in range(4)]
    assert synthesizer.free == 0
    with pytest.raises(Full):
        synthesizer.open()
    synthesizer.close(slots[0])
    assert synthesizer.free == 1


def test_a_session_ends_once(synthesizer: Synthesizer) -> None:
    slot = synthesizer.open()
    synthesizer.push(slot, "hi")
    synthesizer.finish(slot)
    with pytest.raises(UnknownSlot, match="finished"):
        synthesizer.push(slot, "more")
    with pytest.raises(UnknownSlot, match="finished"):
        synthesizer.finish(slot)
    drain(synthesizer, slot)
    assert synthesizer.step() == {}
    synthesizer.close(slot)
    with pytest.raises(UnknownSlot):
        synthesizer.close(slot)


@pytest.mark.parametrize("rate", [0.1, 3.0, float("nan")])
def test_rates_out_of_reach_are_refused(synthesizer: Synthesizer, rate: float) -> None:
    with pytest.raises(BadConfig, match="rate"):
        synthesizer.open(rate=rate)
    assert synthesizer.free == 4


@pytest.mark.parametrize("steps", [0, 11])
def test_solver_steps_out_of_reach_are_refused(steps: int) -> None:
    with pytest.raises(BadConfig, match="solver steps"):
        Synthesizer(ToyVoice(), steps=steps)


def test_separators_reach_the_voice(synthesizer: Synthesizer) -> None:
    voice = ToyVoice()
    Synthesizer(voice).speak("Yes, sir.")
    assert voice.planned[0].count(IDS[","]) == voice.planned[0].count(IDS["."]) == 1
