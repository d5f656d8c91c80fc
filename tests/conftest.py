"""What every test runs under."""

from __future__ import annotations

import torch

torch.set_num_threads(
    1
)  # the tensors are tiny; more threads wait for each other, ten times slower on a busy box
