"""Without a GPU the Triton twins run in triton's interpreter, which it must be told before it is first imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
