"""Which phone each frame holds: a linear layer beside the CTC head, trained on recordings whose phones are known.

CTC says a piece once, in a spike, and learns to be sure of it; this layer says of every 40 ms what is heard there.
pronunciation.py weighs the beam's words by it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LABELS_A_FRAME = 2
# ARPAbet; a phone's class is its place here plus one, 0 is silence
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
SILENCE = 0
CLASSES = len(PHONES) + 1
CLASS = {name: i + 1 for i, name in enumerate(PHONES)}


class PhoneHead(nn.Module):
    """Encoder frames to phones, two labels a frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, LABELS_A_FRAME * CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """x: (slots, T, width or more; what lies beyond the width is not looked at). Returns log-probabilities
        (slots, T, LABELS_A_FRAME, CLASSES), float32 at least."""
        logits: Tensor = self.linear(x[..., : self.linear.in_features]).unflatten(-1, (LABELS_A_FRAME, CLASSES))
        return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
