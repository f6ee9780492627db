"""Floating-point operations of a forward pass: torch's counter, and formulas for the recurrences that run in native code.

A multiply-add is 2 operations, an exponential 1. torch counts matrix products, dense convolutions and attention; sparse convolutions are
matrix products here. Recurrences count as their definition step by step, whatever way a back end computes them. Elementwise work, norms,
sorting and gathering are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import visionrnn.kernels  # noqa: F401  makes the operators known to torch
from visionrnn.kernels.dispatch import has
from visionrnn.kernels.spans import BOTH
from visionrnn.layers import linear

Shape = torch.Size


def _selective_scan(u: Shape, delta: Shape, A: Shape, B: Shape, *_: Any, **__: Any) -> int:
    # per step, channel and state: Δ·A and its exponential, Δu·B, h ← a h + …, C·h
    return u.numel() * (7 * B[-1] + 1)


def _gated_linear(q: Shape, k: Shape, v: Shape, log_decay: Shape | None, bonus: Shape | None, *_: Any, **__: Any) -> int:
    # per step and head: S ← a S (K V), k vᵀ added (2 K V), q S (2 K V); a bonus: (q ⊙ u ⊙ k)·1, then v added
    heads, keys, values = q[:-1].numel(), q[-1], v[-1]
    return heads * ((4 if log_decay is None else 5) * keys * values + (0 if bonus is None else 4 * keys + 2 * values))


def _mlstm(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    # the normaliser is one more column of v
    return 5 * q.numel() * (v[-1] + 1)


def _mlstm_mix(
    u: Shape, c: Shape, z: Shape, blocks: Shape, block_bias: Shape | None, gate_weight: Shape, gate_bias: Shape, gain: Shape,
    shift: Shape | None, skip: Shape, down_weight: Shape, *_: Any, **__: Any,
) -> int:  # fmt: skip
    # the memory; q, k and v, the gates and the output
    key = 2 * u[-1] // gate_weight[0]
    return 5 * u.numel() * (key + 1) + 2 * u[:-1].numel() * (blocks.numel() + gate_weight.numel() + down_weight.numel())


def _delta_rule(q: Shape, k: Shape, v: Shape, beta: Shape, log_decay: Shape | None, *_: Any, **__: Any) -> int:
    return k[:-1].numel() * k[-1] * v[-1] * (6 if log_decay is None else 7)


def _generalized_delta_rule(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    return q.numel() * v[-1] * 9


def _ttt_linear(q: Shape, *_: Any, **__: Any) -> int:
    # per step and head: k W, its gradient's outer product, q W: 2 D² each; the norm and its gradient: about 30 D
    return q.numel() * (6 * q[-1] + 30)


def _causal_conv(u: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * u.numel() * weight[0]


def _diagonal_scan(x: Shape, *_: Any, **__: Any) -> int:
    return 3 * x.numel()


def _complex_diagonal_scan(x: Shape, *_: Any, **__: Any) -> int:
    return 4 * x.numel()


def _prefix_softmax(scores: Shape, values: Shape, *_: Any, **__: Any) -> int:
    return 5 * values.numel()


def _nonlinear_rnn(x: Shape, R: Shape, *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * R.numel()


def _max_plus_scan(x: Shape, *_: Any, **__: Any) -> int:
    return 2 * x.numel()


FORMULAS: dict[str, Callable[..., int]] = {
    "selective_scan": _selective_scan,
    "gated_linear": _gated_linear,
    "mlstm": _mlstm,
    "mlstm_mix": _mlstm_mix,
    "delta_rule": _delta_rule,
    "generalized_delta_rule": _generalized_delta_rule,
    "ttt_linear": _ttt_linear,
    "causal_conv": _causal_conv,
    "diagonal_scan": _diagonal_scan,
    "complex_diagonal_scan": _complex_diagonal_scan,
    "prefix_softmax": _prefix_softmax,
    "nonlinear_rnn": _nonlinear_rnn,
    "max_plus_scan": _max_plus_scan,
}
"""Name below ``torch.ops.visionrnn`` → operations, from the shapes of the arguments."""


def _delta_rule_kernel(
    q: Shape, k: Shape, v: Shape, beta: Shape | None, a: Shape | None, b: Shape | None, log_decay: Shape | None, *_: Any, **__: Any
) -> int:
    return _delta_rule(q, k, v, k, log_decay) if a is None else _generalized_delta_rule(q, k, v)


def _symmetric_retention(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    # two memories: of all earlier steps, and of the later ones of a chunk
    return q[:-1].numel() * (10 * q[-1] * v[-1] + 4 * q[-1] + 2 * v[-1])


def _mixer_inputs(uz: Shape, taps: Shape, _: Any, weight: Shape, step_weight: Shape, *__: Any, **___: Any) -> int:
    # of each direction: the convolution, two products
    return 2 * uz[0] * (uz[1] * taps[1] + 2 * weight.numel() + 2 * step_weight.numel())


def _mixer_output(y: Shape, uz: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * y[1] * weight.numel()


KERNELS: dict[str, Callable[..., int]] = {
    **{name: FORMULAS[name] for name in FORMULAS if name not in ("mlstm_mix", "generalized_delta_rule", "prefix_softmax")},
    "causal_conv": lambda u, weight, *_, **__: 2 * u.numel() * weight[-2],
    "delta_rule": _delta_rule_kernel,
    "nonlinear_rnn": lambda x, R, *_, **__: 2 * x[0] * x[1] * R[-4:].numel(),
    "symmetric_retention": _symmetric_retention,
    "mixer_inputs": _mixer_inputs,
    "mixer_output": _mixer_output,
}
"""The same for the ops that launch Triton's kernels, "triton_" before their names; both directions of shared inputs count twice."""


def _counter(name: str, formula: Callable[..., int]) -> Callable[..., int]:
    """``formula`` for an op of Triton's, told whether it runs both ways."""
    names = [argument.name for argument in getattr(torch.ops.visionrnn, name).default._schema.arguments]

    def count(*given: Any, **others: Any) -> int:
        named = dict(zip(names, given, strict=False))
        return formula(*given, **others) * (2 if named.get("direction") == BOTH and not named["own"] else 1)

    return count


ELEMENTWISE = ("softplus", "tanh", "sigmoid", "silu_gate", "checked_boundaries")


class OperationCount(FlopCounterMode):
    """Counts inside its ``with`` block. ``not_counted``: names of recurrences that ran and have no formula.

    Linear layers are left to torch meanwhile: for oneDNN they are filled up with rows of zeros, which are no work of the model's.
    """

    def __init__(self) -> None:
        ops = torch.ops.visionrnn
        known = {getattr(ops, name): formula for name, formula in FORMULAS.items() if hasattr(ops, name)}
        kernels = {f"triton_{name}": formula for name, formula in KERNELS.items() if has("diagonal", "triton", None)}  # which loads all ops
        known |= {getattr(ops, name): _counter(name, formula) for name, formula in kernels.items() if hasattr(ops, name)}
        super().__init__(display=False, custom_mapping=known)
        for name in ("addmm", "baddbmm"):  # torch counts those that are not in place only
            self.flop_registry[getattr(torch.ops.aten, f"{name}_")] = self.flop_registry[getattr(torch.ops.aten, name)]
        self.not_counted: set[str] = set()

    def __enter__(self) -> OperationCount:
        self._enabled, linear.enabled = linear.enabled, False
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        linear.enabled = self._enabled
        return super().__exit__(*error)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        name = str(func_packet).removeprefix("visionrnn.")
        if name != str(func_packet) and name.removeprefix("triton_") not in {*FORMULAS, *KERNELS, *ELEMENTWISE}:
            self.not_counted.add(name)
        return super()._count_flops(func_packet, out, args, kwargs)

    def of(self, module: str = "") -> int:
        """Operations inside the module of that path below the model, such as "backbone.blocks.0"; "": all there are."""
        if not module:
            return int(self.get_total_flops())
        counts = self.get_flop_counts()
        return max((int(sum(count.values())) for path, count in counts.items() if path.partition(".")[2] == module), default=0)
