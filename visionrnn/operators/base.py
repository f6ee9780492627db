"""What every operator is."""

from __future__ import annotations

from torch import Tensor, nn

State = dict[str, Tensor]
"""What an operator remembers between two parts of a sequence: tensors [B, ...], one row per sequence, by name."""


def without_weight_decay(*parameters: nn.Parameter) -> None:
    """Marks parameters that set time scales: weight decay would pull them to arbitrary ones. Optimizer set-ups read the mark."""
    for parameter in parameters:
        parameter._no_weight_decay = True  # type: ignore[attr-defined]


class Operator(nn.Module):
    """Sequence mixer [B, T, C] → [B, T, C]. One-directional operators are causal in T and can run a sequence in parts.

    With ``cu_seqlens`` [S + 1] the S sequences lie packed along T and B is 1; ``max_seqlen`` bounds their length.
    A subclass implements :meth:`mix`; its constructor takes ``dim``, then options with defaults.
    """

    has_bidirectional = False  # True: the class takes ``bidirectional=True`` itself; False: wrap it in Bidirectional
    causal = True  # False: a step depends on later ones, so there is no state to carry

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, C] and the state before its first step (None: the start of the sequence) → y [B, T, C], state after its last."""
        raise NotImplementedError(f"{type(self).__name__} has no mix")

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        """Whole sequences: x [B, T, C] → y [B, T, C]."""
        return self.mix(x, None, cu_seqlens, max_seqlen)[0]

    def scans_rows(self, x: Tensor) -> bool:
        """Whether :meth:`through` reads the rows of x where they lie: what runs there is known only for a device and type."""
        return False

    def through(self, x: Tensor, index: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None) -> Tensor:
        """x [1, N, C] → y [1, N, C], both in the order of rows; step p of the packed sequences is row ``index[p]``."""
        raise NotImplementedError(f"{type(self).__name__} takes its input in the order of the scan")

    def stream(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next T steps x [B, T, C] of sequences whose past is ``state`` → y [B, T, C] and the new state.

        Parts of any length give what the whole gives. Raises ValueError for an operator that is not causal.
        """
        if not self.causal:
            raise ValueError(f"{type(self).__name__} looks ahead, so it cannot run a sequence in parts")
        return self.mix(x, state)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next step x [B, C] → y [B, C] and the new state; otherwise as :meth:`stream`."""
        y, state = self.stream(x.unsqueeze(1), state)
        return y.squeeze(1), state
