"""Gated linear recurrences: S_t = a_t S_{t-1} + k_t v_tᵀ with a matrix state, and the operators that are built on them."""

from __future__ import annotations

from .attention import gated_linear_attention
from .exponential_gating import mlstm
from .key_softmax import lightnet
from .state_space import state_space_dual
from .symmetric import symmetric_retention

__all__ = ["gated_linear_attention", "lightnet", "mlstm", "state_space_dual", "symmetric_retention"]
