"""The phone head: probabilities of every half frame, whatever lies beside the width."""

import torch

from vivavoce.speech.asr.phones import CLASS, CLASSES, LABELS_A_FRAME, PHONES, SILENCE, PhoneHead
from vivavoce.speech.tts import phones as spoken


def test_every_half_frame_has_probabilities_and_what_lies_beside_the_width_has_no_say() -> None:
    torch.manual_seed(0)
    head, x = PhoneHead(12), torch.randn(2, 5, 12)
    said = head(x)
    assert said.shape == (2, 5, LABELS_A_FRAME, CLASSES)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(2, 5, LABELS_A_FRAME))
    assert torch.equal(said, head(torch.cat([x, torch.randn(2, 5, 1)], dim=-1)))


def test_a_voice_and_a_recogniser_know_the_same_phones() -> None:
    assert {p.rstrip("012") for p in spoken.PHONES} == set(PHONES)
    assert sorted(CLASS.values()) == list(range(1, CLASSES))
    assert SILENCE == 0
