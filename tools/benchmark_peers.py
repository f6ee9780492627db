"""Other implementations of the same functions: those of tools/requirements-peers.txt that can be imported, and plain PyTorch.

A peer takes a sample's inputs and returns the output in our layout; where the two differ the benchmark says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Peer = Callable[[dict[str, Any]], Tensor]


def _import(name: str) -> Any:
    """The object ``module:name``; ImportError when the package is not there."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _mambapy(inputs: dict[str, Any]) -> Tensor:
    u, delta, A = inputs["u"], inputs["delta"].abs(), inputs["A"]  # as the sample takes it
    B, C = (inputs[name].repeat_interleave(u.shape[-1] // inputs[name].shape[2], 2) for name in ("B", "C"))  # [B, T, D, N]
    decay = torch.exp(delta.unsqueeze(-1) * A)  # [B, T, D, N]
    states = _import("mambapy.pscan:pscan")(decay, (delta * u).unsqueeze(-1) * B)
    return (states * C).sum(-1)


def _torch_gla(inputs: dict[str, Any], chunk: int = 32) -> Tensor:
    """Chunks of 32 with one reference row in the middle, all products batched: fast, but overflows where decays are strong."""
    q, k, v, decay = (inputs[name].transpose(1, 2).unflatten(2, (-1, chunk)) for name in ("q", "k", "v", "log_decay"))  # [B, H, n, c, K]
    total = decay.cumsum(3)
    middle, last = total[..., chunk // 2 - 1 : chunk // 2, :], total[..., -1:, :]
    scores = ((q * (total - middle).exp()) @ (k * (middle - total).exp()).transpose(-1, -2)).tril()
    updates = (k * (last - total).exp()).transpose(-1, -2) @ v
    states, state = [], torch.zeros_like(updates[:, :, 0])
    for factor, update in zip(last.exp().transpose(-1, -2).unbind(2), updates.unbind(2), strict=True):
        states.append(state)
        state = factor * state + update
    out = scores @ v + (q * total.exp()) @ torch.stack(states, 2)
    return out.flatten(2, 3).transpose(1, 2) * q.shape[-1] ** -0.5


def _fla_gla(inputs: dict[str, Any]) -> Tensor:
    return _import("fla.ops.gla.naive:naive_recurrent_gla")(inputs["q"], inputs["k"], inputs["v"], inputs["log_decay"])[0]


def _fla_simple_gla(inputs: dict[str, Any]) -> Tensor:
    out = _import("fla.ops.simple_gla.naive:naive_chunk_simple_gla")(inputs["q"], inputs["k"], inputs["v"], inputs["log_decay"])
    return out[0] if isinstance(out, tuple) else out


def _fla_rwkv6(inputs: dict[str, Any]) -> Tensor:
    q, k, v, decay = (inputs[name].transpose(1, 2) for name in ("q", "k", "v", "log_decay"))
    return _import("fla.ops.rwkv6.recurrent_naive:naive_recurrent_rwkv6")(q, k, v, decay, inputs["bonus"], scale=1.0)[0].transpose(1, 2)


def _fla_delta(inputs: dict[str, Any]) -> Tensor:
    q, k, v, beta = (inputs[name].transpose(1, 2) for name in ("q", "k", "v", "beta"))
    return _import("fla.ops.delta_rule.naive:delta_rule_chunkwise")(q, k, v, beta)[0].transpose(1, 2)


def _mlstm_kernels(name: str) -> Peer:
    def peer(inputs: dict[str, Any]) -> Tensor:
        q, k, v, i, f = (inputs[key].transpose(1, 2) for key in ("q", "k", "v", "input_gate", "forget_gate"))
        return _import(f"mlstm_kernels.torch.chunkwise.native:{name}")(q, k, v, i, f).transpose(1, 2)

    return peer


def _xlstm_slstm(inputs: dict[str, Any]) -> Tensor:
    x, R = inputs["x"], inputs["R"]
    heads, width = R.shape[1:3]
    matrices = R.transpose(0, 1).flatten(1, 2)  # [H, G · D, D]
    zero = x.new_zeros(4, x.shape[0], heads * width)
    cell = _import("xlstm.blocks.slstm.src.vanilla:slstm_pointwise_function_registry")["slstm"]
    run = _import("xlstm.blocks.slstm.src.vanilla:slstm_forward")
    states = run(x.flatten(2).transpose(0, 1), zero, matrices, inputs["bias"].flatten(), cell, constants={})[0]
    return states[0][1:].transpose(0, 1).unflatten(2, (heads, width))


def _torch_lstm(inputs: dict[str, Any]) -> Tensor:
    """nn.LSTM with the heads as one block-diagonal matrix; its input projection, an identity here, is part of its time."""
    x, R = inputs["x"], inputs["R"]
    gates, heads, width = R.shape[:3]
    size = heads * width
    block = torch.cat([torch.block_diag(*R[g]) for g in range(gates)])
    weights = [torch.eye(gates * size), block, inputs["bias"].reshape(-1), torch.zeros(gates * size)]
    zero = x.new_zeros(1, x.shape[0], size)
    return torch._VF.lstm(x.flatten(2), (zero, zero), weights, True, 1, 0.0, True, False, True)[0].unflatten(2, (heads, width))


# sample name → peers
PEERS: dict[str, dict[str, Peer]] = {
    "selective_scan": {"mambapy pscan": _mambapy},
    "gla": {"torch chunk 32": _torch_gla, "fla naive recurrent": _fla_gla},
    "simple_gla": {"fla naive chunk": _fla_simple_gla},
    "rwkv6": {"fla naive recurrent": _fla_rwkv6},
    "delta_rule": {"fla naive chunkwise": _fla_delta},
    "mlstm": {
        "mlstm_kernels native_autograd": _mlstm_kernels("mlstm_chunkwise__native_autograd"),
        "mlstm_kernels native_custbw": _mlstm_kernels("mlstm_chunkwise__native_custbw"),
    },
    "slstm_without_floor": {"xlstm vanilla": _xlstm_slstm},
    "lstm": {"nn.LSTM": _torch_lstm},
}
