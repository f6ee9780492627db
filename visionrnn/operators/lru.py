"""Linear recurrent unit (Orvieto et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.kernels import lru
from visionrnn.layers.heads import at_least_float32
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("lru")
class LRU(Operator):
    """A complex diagonal linear recurrence, the same at every step, that starts on a ring within the unit circle.

        λ = exp(-e^ν + i e^θ) ,   h_t = λ ⊙ h_{t-1} + γ ⊙ (B x_t) ,   y_t = Re(C h_t) + D ⊙ x_t

    Source: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences", section 3 and appendix A: |λ|² uniform
    in ``radius``², phase uniform up to ``max_phase``, γ = √(1 - |λ|²), B and C normal. ``d_state``: length of h (dim when absent).
    """

    def __init__(
        self,
        dim: int,
        d_state: int | None = None,
        radius: tuple[float, float] = (0.0, 1.0),
        max_phase: float = 6.28,
        backend: str = "auto",
    ):
        super().__init__()
        if not 0 <= radius[0] < radius[1] <= 1:
            raise ValueError(f"radius: expected 0 ≤ smallest < largest ≤ 1, got {radius}")
        self.backend, states = backend, d_state or dim
        square = torch.rand(states).clamp(1e-4, 1 - 1e-4) * (radius[1] ** 2 - radius[0] ** 2) + radius[0] ** 2  # |λ|²
        self.nu_log = nn.Parameter((-0.5 * square.log()).log())
        self.theta_log = nn.Parameter((max_phase * torch.rand(states).clamp(min=1e-4)).log())
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-square))
        self.B = nn.Parameter(torch.randn(2, states, dim) * (2 * dim) ** -0.5)  # real and imaginary part
        self.C = nn.Parameter(torch.randn(2, dim, states) * states**-0.5)
        self.D = nn.Parameter(torch.randn(dim))
        without_weight_decay(self.nu_log, self.theta_log, self.gamma_log)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        nu, theta, gamma = (at_least_float32(value).exp() for value in (self.nu_log, self.theta_log, self.gamma_log))
        B, C = (torch.complex(*at_least_float32(value).unbind(0)) for value in (self.B, self.C))
        with torch.autocast(x.device.type, enabled=False):  # complex products have no half types
            y, h = lru(
                x, torch.complex(-nu, theta), gamma.unsqueeze(-1) * B, C, self.D, (state or {}).get("h"), return_final_state=True,
                cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
            )  # fmt: skip
        return y, {"h": h}
