"""Sequences as Triton kernels take them: how many there are, in which order they are read, and in which direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

FORWARD, REVERSE, BOTH = 0, 1, 2


@dataclass(frozen=True)
class Spans:
    """``N`` rows in ``S`` sequences: of ``T`` steps each, or packed as ``cu_seqlens`` [S + 1] says.

    ``direction`` BOTH doubles the sequences: those that run backward stand behind the others, in outputs and states [2 · S, ...] and,
    where ``own``, in inputs [2 · B, T, ...] and constants [2, ...] too. ``index`` [N]: the row of each position.
    """

    T: int
    N: int
    S: int
    cu_seqlens: Tensor | None
    index: Tensor | None
    direction: int
    own: bool

    @classmethod
    def of(cls, like: Tensor, cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool) -> Spans:
        """``like``: a timed input [B, T, ...], [2 · B, T, ...] where ``own``."""
        batch, length = like.shape[0] // (2 if own else 1), like.shape[1]
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        return cls(length, batch * length, sequences, cu_seqlens, index, direction, own)

    @property
    def directions(self) -> int:
        return 2 if self.direction == BOTH else 1

    @property
    def sequences(self) -> int:
        """Programs' sequences, those of both directions."""
        return self.S * self.directions

    def slots(self, chunk: int) -> int:
        """Places for chunks of one direction, as the kernels' ``chunk_of`` counts them."""
        if not self.N:
            return 0
        return self.S * -(-self.T // chunk) if self.cu_seqlens is None else self.N // chunk + self.S

    def output(self, like: Tensor) -> tuple[int, ...]:
        """Shape [directions · B, T] of outputs, and of gradients before those of shared inputs are summed."""
        return like.shape[0] * (1 if self.own else self.directions), like.shape[1]

    def arguments(self) -> dict[str, Any]:
        """What the kernels take of it, by name."""
        return {
            "cu_seqlens": self.cu_seqlens, "index": self.index, "T": self.T, "N": self.N, "S": self.S,
            "direction": self.direction, "own": int(self.own),
        }  # fmt: skip

    def summed(self, gradient: Tensor) -> Tensor:
        """The gradient [directions · B, ...] of an input: both directions' together where they read the same one."""
        return gradient if self.own or self.directions == 1 else gradient.unflatten(0, (2, -1)).sum(0)
