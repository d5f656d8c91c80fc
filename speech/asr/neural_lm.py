"""A recurrent language model over subword pieces, small enough to lie beside the recogniser.

recipes/train/asr/neural_lm.py trains one on text and saves it as `lm.safetensors`; lm.py loads it and asks it for
the beam. It goes by all that was said before, where an n-gram sees a few pieces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vivavoce.speech import weights
from vivavoce.speech.errors import BadCheckpoint

Memory = tuple[Tensor, Tensor]


class NeuralLm(nn.Module):
    """An LSTM (Mikolov et al. 2010; Sundermeyer et al. 2012) that predicts the next of `pieces`.

    Piece number `pieces` is the mark before a sentence. width: of the embedding; hidden: of the memory.
    """

    def __init__(self, pieces: int, width: int, hidden: int) -> None:
        super().__init__()
        self.pieces, self.hidden = pieces, hidden
        self.embedding = nn.Embedding(pieces + 1, width)
        self.lstm = nn.LSTM(width, hidden)
        self.head = nn.Linear(hidden, pieces)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(bias)
                nn.init.constant_(bias[hidden : 2 * hidden], 0.5)  # of two: remember (Jozefowicz et al. 2015)

    def start(self, *shape: int) -> Memory:
        """The memory before anything was said, two of (*shape, hidden)."""
        h = self.head.weight.new_zeros(*shape, self.hidden)
        return h, h.clone()

    def forward(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Log-probabilities of what follows each piece.

        tokens: (n, B), a column a sentence; memory: two of (B, hidden). Returns (n, B, pieces) and the memory after
        the last.
        """
        y, (h, c) = self.lstm(self.embedding(tokens), (memory[0][None], memory[1][None]))
        return self.head(y).log_softmax(-1), (h[0], c[0])

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Of each piece of sentences given those before it. tokens: (sentences, length). Returns the same shape."""
        before = torch.cat([torch.full_like(tokens[:, :1], self.pieces), tokens[:, :-1]], dim=1)
        y, _ = self(before.T, self.start(len(tokens)))
        found: Tensor = y.gather(-1, tokens.T[..., None])[..., 0].T
        return found

    def save(self, path: str | Path) -> None:
        """Write it, weights in int8 with a scale a row; atomic, so a reader sees the old file or the new one."""
        weights.write(weights.pack(self, "int8"), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises BadCheckpoint for a file that is missing, truncated, or holds something else."""
        try:
            tensors = weights.unpack(load_file(path))
            embedding, head = tensors["embedding.weight"], tensors["head.weight"]
            made = cls(len(embedding) - 1, embedding.shape[1], head.shape[1])
        except (SafetensorError, OSError, KeyError, IndexError) as e:
            raise BadCheckpoint(f"{path}: not a language model ({e}); fetch it again or leave it out") from e
        weights.fit(made, tensors, str(path))
        return made.eval().requires_grad_(False)
