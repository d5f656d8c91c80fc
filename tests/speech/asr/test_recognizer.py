"""The recogniser as its users see it: pushes of any size, any company, a snapshot in between: the same words."""

import random
import re
import resource
from collections.abc import Iterator, Sequence

import pytest
import torch
from streams import cut, random_sizes
from tokenizers import Tokenizer, models
from torch import Tensor

from vivavoce.speech.asr.model import AsrConfig, AsrModel, TransducerConfig
from vivavoce.speech.asr.recognizer import Recognizer, Snapshot, blocks_of
from vivavoce.speech.asr.transcript import Transcript
from vivavoce.speech.asr.voice import Gate
from vivavoce.speech.asr.words import Word
from vivavoce.speech.errors import BadAudio, BadCheckpoint
from vivavoce.speech.nn.encoder import EncoderConfig
from vivavoce.streaming.errors import Full, UnknownSlot

PIECES = ["▁a", "b", "▁c", "d", "▁e", "'"]
TOKENIZER = Tokenizer(models.WordLevel({p: i for i, p in enumerate(PIECES)}, PIECES[-1]))


def make_recognizer(slots: int = 4, layers: int = 2, width: int = 32, decoder: str = "ctc",
                    causal: bool = True, gate: Gate | None = None, phones: bool = False) -> Recognizer:
    """Random weights, its head made to babble on the noise below: many words for the comparisons."""
    torch.manual_seed(3)
    encoder = EncoderConfig(width=width, layers=layers, heads=4, hidden=2 * width, channels=8, dropout=0.0,
                            causal=causal)
    model = AsrModel(AsrConfig("random", encoder, len(PIECES), transducer=TransducerConfig(hidden=16, layers=1),
                               gate=gate, phones=phones))
    model.eval()
    assert model.ctc is not None
    with torch.no_grad():
        x, _ = model(noise(40_000)[None], torch.tensor([40_000]))
        head = model.ctc.linear
        head.weight.normal_(std=20.0)
        head.bias.copy_(-head.weight @ x[0].mean(0))
        assert model.transducer is not None
        projector = model.transducer.encoder_projector
        projector.weight.normal_(std=20.0)
        projector.bias.copy_(-projector.weight @ x[0].mean(0))
    return Recognizer(model, TOKENIZER, slots=slots, decoder=decoder)


def noise(samples: int, seed: int = 0) -> Tensor:
    """Bursts, so that frames differ."""
    g = torch.Generator().manual_seed(seed)
    loud = 10 ** (-3 * torch.rand(samples // 2000 + 1, generator=g)).repeat_interleave(2000)[:samples]
    return torch.randn(samples, generator=g) * loud * 0.3


def same(a: Sequence[Word], b: Sequence[Word]) -> bool:
    """The same words at the same samples; confidences to the rounding of fp32 under this head's large weights."""
    return len(a) == len(b) and all(
        (x.word, x.start_sample, x.stop_sample) == (y.word, y.start_sample, y.stop_sample)
        and abs(x.confidence - y.confidence) < 1e-3 for x, y in zip(a, b, strict=True))


def stream(recognizer: Recognizer, pcm: Tensor, sizes: list[int], lookahead: int) -> tuple[Word, ...]:
    slot = recognizer.open(lookahead=lookahead)
    pieces, words = cut(pcm, sizes), list[Word]()
    for i, piece in enumerate(pieces):
        update = recognizer.step({slot: piece}, [slot] if i == len(pieces) - 1 else [])[slot]
        words += update.stable
    recognizer.close(slot)
    return tuple(words)


@pytest.mark.parametrize("lookahead", [0, 1, 6, 13, 69])
def test_pushed_in_pieces_equals_transcribed_whole(lookahead: int) -> None:
    recognizer, pcm = make_recognizer(), noise(130_001)
    whole = recognizer.transcribe(pcm, lookahead=lookahead)
    assert len(whole.words) > 5, "the comparison needs words"
    for sizes in ([320], [160_000], random_sizes(lookahead, 20_000)):
        assert same(stream(recognizer, pcm, sizes, lookahead), whole.words)


def test_one_sample_at_a_time_equals_transcribed_whole() -> None:
    recognizer, pcm = make_recognizer(), noise(1800)
    assert same(stream(recognizer, pcm, [1], 0), recognizer.transcribe(pcm, lookahead=0).words)


def test_many_recordings_at_once_equal_each_alone() -> None:
    recognizer = make_recognizer(slots=3)
    recordings = [noise(n, n) for n in (0, 100, 50_000, 1, 90_000, 20_000, 33_333)]
    together = dict(recognizer.transcribe_streams([blocks_of(x, 1.7) for x in recordings], lookahead=6))
    for i, pcm in enumerate(recordings):
        assert same(together[i].words, recognizer.transcribe(pcm, lookahead=6).words)
        assert together[i].samples == len(pcm)
    assert recognizer.engine.free == 3


def test_a_snapshot_goes_on_elsewhere() -> None:
    recognizer, other, pcm = make_recognizer(), make_recognizer(), noise(100_000)
    whole = recognizer.transcribe(pcm, lookahead=6).words
    slot = recognizer.open(lookahead=6)
    before = recognizer.step({slot: pcm[:44_444]})[slot].stable
    kept: Snapshot = recognizer.snapshot(slot)
    recognizer.step({slot: noise(9999, 7)})  # what happens to the first session is nothing to the second
    moved = other.open(snapshot=kept)
    after = other.step({moved: pcm[44_444:]}, [moved])[moved].stable
    assert same(before + after, whole)


def test_stable_words_never_change_and_the_tail_is_marked() -> None:
    recognizer, pcm = make_recognizer(), noise(100_000)
    whole = recognizer.transcribe(pcm, lookahead=1).text
    slot = recognizer.open(lookahead=1)
    shown = ""
    for piece in cut(pcm, [640]):
        update = recognizer.step({slot: piece})[slot]
        shown = " ".join([shown, *(w.word for w in update.stable)]).strip()
        assert whole.startswith(shown)
        assert (shown + " " + update.tail).strip() == shown or whole.startswith((shown + " " + update.tail).strip())


def test_words_are_ordered_and_inside_the_recording() -> None:
    transcript: Transcript = make_recognizer().transcribe(noise(90_000), lookahead=13)
    edges = [edge for w in transcript.words for edge in (w.start_sample, w.stop_sample)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= 90_000
    assert all(0 <= w.confidence <= 1 for w in transcript.words)


def test_an_iterable_that_fails_frees_every_slot() -> None:
    def broken() -> Iterator[Tensor]:
        yield noise(1000)
        raise OSError("disk gone")

    recognizer = make_recognizer()
    with pytest.raises(OSError, match="disk gone"):
        list(recognizer.transcribe_streams([blocks_of(noise(50_000), 0.5), broken()], lookahead=0))
    assert recognizer.engine.free == 4


def test_recordings_with_every_slot_taken_are_refused_not_lost() -> None:
    recognizer = make_recognizer(slots=1)
    taken = recognizer.open()
    with pytest.raises(Full):
        recognizer.transcribe(noise(1000))
    with pytest.raises(Full):
        list(recognizer.transcribe_streams([[noise(1000)]]))
    recognizer.close(taken)
    assert recognizer.transcribe(noise(1000)).duration == 1000 / 16000


def test_a_closed_session_is_unknown() -> None:
    recognizer = make_recognizer()
    slot = recognizer.open()
    recognizer.close(slot)
    with pytest.raises(UnknownSlot):
        recognizer.step({slot: noise(100)})


def test_an_ended_session_has_no_snapshot() -> None:
    recognizer = make_recognizer()
    slot = recognizer.open()
    recognizer.step({slot: noise(5000)}, [slot])
    with pytest.raises(UnknownSlot, match="has ended"):
        recognizer.snapshot(slot)


@pytest.mark.parametrize(("wrong", "why"), [
    (torch.zeros(2, 100), "shape"), (torch.full((100,), torch.nan), "NaN"), (torch.full((100,), 3000.0), "32768"),
    (torch.zeros(100, dtype=torch.int64), "int64"),
])
def test_bad_audio_is_refused_by_session_before_anybody_hears_anything(wrong: Tensor, why: str) -> None:
    recognizer, pcm = make_recognizer(), noise(60_000)
    whole = recognizer.transcribe(pcm, lookahead=6).words
    good, bad = recognizer.open(lookahead=6), recognizer.open(lookahead=0)
    with pytest.raises(BadAudio, match=rf"{re.escape(str(bad))}.*{why}"):
        recognizer.step({good: pcm, bad: wrong}, [good])
    assert recognizer.heard(good) == 0
    out = recognizer.step({good: pcm, bad: pcm}, [good, bad])
    assert same(out[good].stable, whole)


def test_an_encoder_of_whole_utterances_transcribes_but_does_not_stream() -> None:
    recognizer = make_recognizer(causal=False)
    recordings = [noise(n, n) for n in (50_000, 8_000)]
    transcripts = dict(recognizer.transcribe_streams([blocks_of(x, 0.7) for x in recordings]))
    assert len(transcripts[0].words) > 3
    assert transcripts[1] == recognizer.transcribe(recordings[1])
    with pytest.raises(BadCheckpoint, match="whole utterances"):
        recognizer.open()


@pytest.mark.parametrize(("decoder", "phones"), [("beam", False), ("beam", True), ("rnnt", False)])
def test_every_decoder_streams_as_it_transcribes(decoder: str, phones: bool) -> None:
    recognizer, pcm = make_recognizer(decoder=decoder, phones=phones), noise(90_000)
    whole = recognizer.transcribe(pcm, lookahead=6)
    assert len(whole.words) > 3
    for sizes in ([1111], random_sizes(5, 20_000)):
        assert same(stream(recognizer, pcm, sizes, 6), whole.words)


@pytest.mark.parametrize(("decoder", "phones"), [("ctc", False), ("beam", False), ("beam", True), ("rnnt", False)])
def test_behind_a_gate_every_decoder_streams_as_it_transcribes_through_a_snapshot(decoder: str, phones: bool) -> None:
    gate = Gate(best=2, full=0.1, weight=100.0)  # the noise has voice probabilities of 0 to 0.05
    recognizer, pcm = make_recognizer(decoder=decoder, gate=gate, phones=phones), noise(60_000)
    whole, anything = (
        one.transcribe(pcm, lookahead=6).words for one in (recognizer, make_recognizer(decoder=decoder, phones=phones))
    )
    assert 3 < len(whole) < len(anything)
    assert same(stream(recognizer, pcm, random_sizes(5, 20_000), 6), whole)
    slot = recognizer.open(lookahead=6)
    before = recognizer.step({slot: pcm[:24_444]})[slot].stable
    moved = recognizer.open(snapshot=recognizer.snapshot(slot))
    recognizer.step({slot: noise(9999, 7)})
    assert same(before + recognizer.step({moved: pcm[24_444:]}, [moved])[moved].stable, whole)


def test_the_gate_can_be_left_open() -> None:
    shut, pcm = make_recognizer(gate=Gate(full=1.0, weight=1e5)), noise(30_000)
    opened = Recognizer(shut.model, TOKENIZER, decoder="ctc", gate=False)
    assert shut.transcribe(pcm).words == ()
    assert same(opened.transcribe(pcm).words, make_recognizer().transcribe(pcm).words)


def test_a_decoder_that_the_model_lacks_is_named() -> None:
    with pytest.raises(BadCheckpoint, match="'tdt'"):
        make_recognizer(decoder="tdt")


def simulate(hours: float) -> tuple[int, int]:
    """Bytes of state, and the process's peak in KiB, grown between the first tenth and the end of a long stream."""
    recognizer = make_recognizer(slots=1, layers=1, width=16)
    slot, second = recognizer.open(lookahead=6), noise(16_000 * 60)
    rng = random.Random(0)
    steps, state, peak = round(hours * 60), 0, 0
    for i in range(steps):
        recognizer.step({slot: second.roll(rng.randrange(999))})
        if i == steps // 10:
            state = recognizer.engine.state.nbytes
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert recognizer.heard(slot) == steps * 960_000
    return recognizer.engine.state.nbytes - state, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak


def test_memory_does_not_grow_over_half_an_hour() -> None:
    state, process = simulate(0.5)
    assert state == 0
    assert process < 20_000


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_hours() -> None:
    state, process = simulate(10.0)
    assert state == 0
    assert process < 20_000
