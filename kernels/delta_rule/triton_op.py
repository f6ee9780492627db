"""Launches the Triton kernels of the delta rules, as custom ops with backward ops of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch, product_precision
from ..native import watch, watched_gradients
from ..spans import Spans

FORWARD, BACKWARD = "delta_rule.triton_kernels.", "delta_rule.triton_backward_kernels."
CHANNELS = "delta_rule.triton_channel_kernels."
# Rows of a chunk. Hopper and Blackwell multiply 64 rows at once and read operands from shared memory; the three products for float32, and
# the many of decays per channel, pass registers, of which more rows would need more than there are.
ROWS, FEW_ROWS = 64, 32
BY_TILE = ("w", "queries", "ahead", "added", "inverse", "seen", "seen_values")  # read once more for every tile of the values' columns


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor, *, scale: float,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q: [B, T, H, K]; k, v, beta: [B, T, steps, H, K|V|-]; log_decay: None, [B, T, H] or [B, T, H, K]; state: [S, H, K, V]
    → o [B, T, H, V] in the type of q, final state; batches as in ``Spans``. At most ``FEW_ROWS`` steps per token."""
    return _delta_rule(q, k, v, beta, None, None, log_decay, state, scale, cu_seqlens, index, direction, own)[:2]


def generalized_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor, *, scale: float,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q, k, a, b, log_decay: [B, T, H, K]; v: [B, T, H, V]; state: [S, H, K, V] → o [B, T, H, V] in the type of q, final state."""
    k, v = k.unsqueeze(2), v.unsqueeze(2)
    return _delta_rule(q, k, v, None, a, b, log_decay, state, scale, cu_seqlens, index, direction, own)[:2]


@dataclass(frozen=True)
class Plan:
    """One call in chunks of L rows. What the kernels hand to one another, ``kept``, is one piece of memory."""

    spans: Spans
    heads: int
    key: int
    value: int
    steps: int
    L: int
    precision: str
    general: bool
    decay: int  # 0 none, 1 per head, 2 per channel of the keys

    @classmethod
    def of(cls, spans: Spans, q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, log_decay: Tensor | None) -> Plan:
        dtype = reduce(torch.promote_types, (value.dtype for value in (q, k, v, a, b) if value is not None))
        decay = 0 if log_decay is None else log_decay.dim() - 2
        L = ROWS if dtype == torch.bfloat16 and decay < 2 else FEW_ROWS
        precision = "tf32" if dtype == torch.bfloat16 else product_precision()
        return cls(spans, q.shape[2], q.shape[3], v.shape[-1], k.shape[2], L, precision, a is not None, decay)

    @property
    def chunks(self) -> int:
        return self.spans.slots(self.L // self.steps) * self.spans.directions

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parts of ``kept`` by name, those first that are not read again once the forward is done."""
        by_key, by_value, square = ((self.chunks, self.heads, self.L, width) for width in (self.key, self.value, self.L))
        found: dict[str, tuple[int, ...]] = {
            "u": by_value,
            "w": by_key,
            "queries": by_key,
            "ahead": by_key,
            "inverse": square,
            "seen": square,
            "written": by_value,
        }
        found["kept"] = self.chunks, self.heads, self.key, self.value
        if self.decay == 1:
            found["lower"] = square
        if self.general:
            found |= {"added": by_key, "seen_values": square, "read_values": square}
        return found

    def parts(self, kept: Tensor) -> dict[str, Tensor | None]:
        """Views of ``kept`` by name; None for those that this rule has not."""
        shapes = self.shapes()
        pieces = kept.split([prod(shape) for shape in shapes.values()])
        found = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return {name: found.get(name) for name in ("lower", "added", "seen_values", "read_values")} | found

    def new(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the decays of whole chunks, and for the rest."""
        whole = like.new_empty((self.chunks, self.heads, self.key) if self.decay else (0,), dtype=torch.float32)
        return whole, like.new_empty(sum(map(prod, self.shapes().values())), dtype=torch.float32)

    def gradients(self, like: Tensor) -> dict[str, Tensor | None]:
        """Room for the gradients of the matrices [L, L], by name, and for what else goes from one backward kernel to another."""
        names = ["grad_seen", "grad_lower"] + (["grad_seen_values", "grad_read_values"] if self.general else [])
        squares = like.new_empty(len(names), self.chunks, self.heads, self.L, self.L)
        rows = like.new_empty(2, self.chunks, self.heads, self.L)
        absent = dict.fromkeys(("grad_seen_values", "grad_read_values"))
        sums = {"rates": None if self.general else rows[0], "decays": rows[1] if self.decay == 1 else None}
        return absent | dict(zip(names, squares.unbind(), strict=True)) | sums

    def run(
        self, kernel: str, arguments: dict[str, Any], blocks: list[Config], macs: float, tiled: bool = False, chunked: bool = True
    ) -> None:
        """One launch. ``macs``: multiply-adds per chunk and head; ``tiled``: a program has BLOCK_V columns; otherwise all."""
        common = {"STEPS": self.steps, "H": self.heads, "K": self.key, "V": self.value, "L": self.L, "PRECISION": self.precision}
        candidates = [Config({**common, **block.constants}, block.warps, block.stages) for block in blocks]
        first = self.chunks if chunked else self.spans.sequences

        def grid(c):
            return (first, self.heads, -(-self.value // c["BLOCK_V"])) if tiled else (first, self.heads)

        traffic = sum(value.numel() * value.element_size() for value in arguments.values() if isinstance(value, Tensor))
        if tiled:
            repeats = -(-self.value // candidates[0].constants["BLOCK_V"]) - 1
            traffic += repeats * sum(4 * arguments[name].numel() for name in BY_TILE if arguments.get(name) is not None)
        flops = 2.0 * self.chunks * self.heads * macs
        launch(kernel, grid, arguments | self.spans.arguments(), candidates, flops=flops, traffic=traffic)


def _block(width: int, most: int) -> int:
    """Width of a tile: a power of two of at least 16, the least that tensor cores multiply."""
    return max(16, min(most, 1 << (width - 1).bit_length()))


def _tiles(plan: Plan, *forms: tuple[int, int, int]) -> list[Config]:
    """Candidates (most columns of keys, of values, warps) for kernels that go over both in tiles."""
    more = {"VECTOR": plan.decay == 2}
    return [Config({**more, "BLOCK_K": _block(plan.key, k), "BLOCK_V": _block(plan.value, v)}, warps, 1) for k, v, warps in forms]


def _columns(plan: Plan, *forms: tuple[int, int, int]) -> list[Config]:
    """Candidates (columns, warps, stages) for kernels that hold all keys' rows of the state."""
    return [Config({"BLOCK_K": _block(plan.key, 256), "BLOCK_V": _block(plan.value, v)}, warps, stages) for v, warps, stages in forms]


def _forward(plan: Plan, given: dict[str, Any], kept: dict[str, Any], o: Tensor, final: Tensor) -> None:
    L, K, V = plan.L, plan.key, plan.value
    scores, levels = (4 if plan.general else 2) * L * L * K, (L.bit_length() - 1 if plan.decay == 2 else 1)
    timed = {name: given[name] for name in ("q", "k", "v", "beta", "a", "b", "log_decay", "scale")}
    prepared = _tiles(plan, *([(32, 64, 4), (16, 32, 4)] if plan.L == ROWS else [(16, 16, 8)]))
    made = ("w", "u", "queries", "ahead", "added", "whole", "inverse", "seen", "lower", "seen_values", "read_values")
    plan.run(
        FORWARD + "prepare", timed | {name: kept[name] for name in made}, prepared,
        levels * scores + L * L * (K + V + (V if plan.general else 0) + 4 * L),
    )  # fmt: skip
    read = {name: kept[name] for name in ("w", "u", "ahead", "added", "whole", "kept", "written")}
    plan.run(
        FORWARD + "states", read | {"v": given["v"], "state": given["state"], "final": final},
        _places(plan), (3 if plan.general else 2) * L * K * V, tiled=True, chunked=False,
    )  # fmt: skip
    read = {name: kept[name] for name in ("queries", "seen", "seen_values", "kept", "written")}
    plan.run(
        FORWARD + "outputs", read | {"v": given["v"], "o": o},
        _columns_of_both(plan, (64, 64, 4), (64, 128, 8), (32, 32, 4)), L * V * (K + L * (2 if plan.general else 1)), tiled=True,
    )  # fmt: skip


def _places(plan: Plan) -> list[Config]:
    """Candidates for the kernels that go from chunk to chunk."""
    return _columns(plan, *([(32, 4, 1), (16, 4, 1)] if plan.L == ROWS else [(16, 4 if plan.key <= 64 else 8, 1)]))


def _columns_of_both(plan: Plan, *forms: tuple[int, int, int], stages: int = 2) -> list[Config]:
    return [Config({"BLOCK_K": _block(plan.key, k), "BLOCK_V": _block(plan.value, v)}, warps, stages) for k, v, warps in forms]


@torch.library.custom_op("visionrnn::triton_delta_rule", mutates_args=(), device_types=("cpu", "cuda"))
def _delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Optional[Tensor], a: Optional[Tensor], b: Optional[Tensor],  # noqa: UP045
    log_decay: Optional[Tensor], state: Tensor, scale: float, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    direction: int, own: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    plan = Plan.of(spans, q, k, v, a, b, log_decay)
    o, final = q.new_empty(*spans.output(q), plan.heads, plan.value), torch.empty_like(state)
    whole, kept = plan.new(q)
    given = {"q": q, "k": k, "v": v, "beta": beta, "a": a, "b": b, "log_decay": log_decay, "state": state, "scale": scale}
    _forward(plan, given, plan.parts(kept) | {"whole": whole if plan.decay else None}, o, final)
    return o, final, whole, kept


@_delta_rule.register_fake
def _(q, k, v, beta, a, b, log_decay, state, scale, cu_seqlens, index, direction, own):
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    plan = Plan.of(spans, q, k, v, a, b, log_decay)
    return q.new_empty(*spans.output(q), plan.heads, plan.value), torch.empty_like(state), *plan.new(q)


def _last_gradients(plan: Plan, given: dict[str, Any]) -> None:
    """Those of all timed inputs but the values, from the gradients of scores and states; ``given`` has more than is needed."""
    L, K, V = plan.L, plan.key, plan.value
    timed = "q", "k", "v", "beta", "log_decay", "grad_seen", "grad_lower"
    if plan.decay < 2:
        names = *timed, "grad_o", "kept", "written", "grad_kept", "p", "rates", "decays", "grad_q", "grad_k", "grad_beta", "grad_log_decay"
        forms = _columns_of_both(plan, *([(32, 32, 8), (16, 16, 8)] if plan.L == ROWS else [(16, 16, 8)]), stages=1)
        arguments = {name: given[name] for name in (*names, "scale")}
        plan.run(BACKWARD + "gradients", arguments, forms, L * K * (4 * L + 3 * V))
        return
    kinds, levels = (2 if plan.general else 1), L.bit_length() - 1
    given["grad_decay"] = given["grad_seen"].new_empty(plan.chunks, plan.heads, L, K)
    given["grad_reader"] = None if plan.general else torch.empty_like(given["grad_decay"])
    common = *timed, "a", "b", "grad_seen_values", "grad_read_values", "kept", "grad_reader", "grad_decay"
    forms = _columns_of_both(plan, (16, 32 if plan.precision == "tf32" else 16, 8), stages=1)  # three products need more registers
    macs = levels * L * L * K * (2 * kinds + 1)
    reads = *common, "grad_o", "p", "rates", "grad_q", "grad_beta", "grad_a", "scale"
    plan.run(CHANNELS + "read_gradients", {name: given[name] for name in reads}, forms, macs + 2 * L * K * V)
    writes = *common, "written", "grad_kept", "grad_k", "grad_b", "grad_log_decay"
    plan.run(CHANNELS + "write_gradients", {name: given[name] for name in writes}, forms, macs + kinds * L * K * V)


@torch.library.custom_op("visionrnn::triton_delta_rule_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _delta_rule_backward(
    grad_o: Tensor, grad_final: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Optional[Tensor], a: Optional[Tensor],  # noqa: UP045
    b: Optional[Tensor], log_decay: Optional[Tensor], whole: Tensor, kept: Tensor, scale: float, cu_seqlens: Optional[Tensor],  # noqa: UP045
    index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, beta, a, b, log_decay and state; empty for those that are not there."""
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    plan = Plan.of(spans, q, k, v, a, b, log_decay)
    L, K, V = plan.L, plan.key, plan.value
    parts = plan.parts(kept) | {"whole": whole if plan.decay else None}
    parts["p"] = kept.new_empty(plan.shapes()["written"])
    parts["grad_kept"] = kept.new_empty(plan.shapes()["kept"])
    grad_o, grad_state = grad_o.contiguous(), torch.empty_like(grad_final)
    read = {name: parts[name] for name in ("w", "queries", "ahead", "whole", "inverse", "seen", "grad_kept", "p")}
    plan.run(
        BACKWARD + "states_backward", read | {"grad_o": grad_o, "grad_final": grad_final.contiguous(), "grad_state": grad_state},
        _places(plan), L * V * (3 * K + 2 * L), tiled=True, chunked=False,
    )  # fmt: skip
    timed = {"q": q, "k": k, "v": v, "beta": beta, "a": a, "b": b, "log_decay": log_decay}
    grads = {name: None if value is None else value.new_empty(*spans.output(value), *value.shape[2:]) for name, value in timed.items()}
    made = plan.gradients(kept)
    read = {name: parts[name] for name in ("added", "seen", "lower", "seen_values", "read_values", "written", "grad_kept", "p")}
    some = {name: timed[name] for name in ("q", "v", "beta", "log_decay")}
    plan.run(
        BACKWARD + "score_gradients", some | read | made | {"grad_v": grads["v"], "grad_o": grad_o, "scale": scale},
        _columns_of_both(plan, (32, 32, 8) if plan.L == ROWS else (16, 16, 8), stages=1),
        L * V * (6 * L + K if plan.general else 2 * L),
    )  # fmt: skip
    results = {f"grad_{name}": value for name, value in grads.items() if name != "v"}
    _last_gradients(plan, timed | parts | made | results | {"grad_o": grad_o, "scale": scale})
    found = [q.new_empty(0) if value is None else spans.summed(value) for value in grads.values()]
    return found[0], found[1], found[2], found[3], found[4], found[5], found[6], grad_state


@_delta_rule_backward.register_fake
def _(grad_o, grad_final, q, k, v, beta, a, b, log_decay, whole, kept, scale, cu_seqlens, index, direction, own):
    timed = [q.new_empty(0) if value is None else value.new_empty(value.shape) for value in (q, k, v, beta, a, b, log_decay)]
    return *timed, grad_final.new_empty(grad_final.shape)


def _setup(ctx, inputs, output):
    *timed, _, ctx.scale, cu_seqlens, index, ctx.direction, ctx.own = inputs
    ctx.save_for_backward(*timed, *output[2:], cu_seqlens, index)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    *saved, cu_seqlens, index = ctx.saved_tensors
    given = watched_gradients(ctx, given)
    *grads, grad_state = _delta_rule_backward(*given, *saved, ctx.scale, cu_seqlens, index, ctx.direction, ctx.own)
    timed = [None if value is None else grad for value, grad in zip(saved, grads, strict=False)]
    return *timed, grad_state, None, None, None, None, None


_delta_rule.register_autograd(_backward, setup_context=_setup)

from .triton_test_time_op import ttt_linear, ttt_linear_fla  # noqa: E402, F401  (functions of this back end)
