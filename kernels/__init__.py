"""Recurrences as functions: one signature per family, several back ends.

Families (see each folder): ``diagonal`` h_t = a_t ⊙ h_{t-1} + x_t, ``gated_linear`` S_t = a_t S_{t-1} + k_t v_tᵀ, ``delta_rule``
S_t = a_t (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, ``nonlinear`` h_t = cell(x_t, R h_{t-1}), and the short ``causal_conv`` before
many of them. Layout: batch B, time T, then channels or heads; matrix states are key × value.
Imported as ``visionrnn.kernels``, never as ``kernels``: a second import would load everything twice.
"""

if __name__ != "visionrnn.kernels":
    raise ImportError(f"this package is 'visionrnn.kernels', not {__name__!r}: import visionrnn.kernels")

from .causal_conv import causal_conv
from .delta_rule import delta_rule, generalized_delta_rule
from .delta_rule.test_time import titans_linear, ttt_linear, ttt_mlp
from .diagonal import diagonal_scan, prefix_softmax, selective_scan
from .diagonal.forms import longhorn, lru, min_gru, min_lstm, s4d
from .dispatch import available_backends
from .gated_linear import gated_linear_attention, lightnet, mlstm, state_space_dual, symmetric_retention
from .nonlinear import bidirectional_nonlinear_rnn, newton_rnn, nonlinear_rnn

__all__ = [
    "available_backends",
    "bidirectional_nonlinear_rnn",
    "causal_conv",
    "delta_rule",
    "diagonal_scan",
    "gated_linear_attention",
    "generalized_delta_rule",
    "lightnet",
    "longhorn",
    "lru",
    "min_gru",
    "min_lstm",
    "mlstm",
    "newton_rnn",
    "nonlinear_rnn",
    "prefix_softmax",
    "s4d",
    "selective_scan",
    "state_space_dual",
    "symmetric_retention",
    "titans_linear",
    "ttt_linear",
    "ttt_mlp",
]
