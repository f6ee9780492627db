"""Launches the Triton kernels of mLSTM, as custom ops with backward ops of their own, and that of the running maximum."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch, product_precision
from ..native import watch
from ..spans import Spans
from .native_mlstm import states_together

CHUNKS = (64, 128, 256)
MODULE = "gated_linear.triton_mlstm_kernels"
BACKWARD = "gated_linear.triton_mlstm_backward_kernels"


def mlstm(
    q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor, *,
    C: Tensor | None, n: Tensor | None, m: Tensor | None, scale: float, eps: float, exponential: bool, divide: bool, final: bool,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool, chunk: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """q, k: [B, T, H, K]; v: [B, T, H, V]; gates: [B, T, H], before their activations; C, n, m: [S, H, K, V], [S, H, K], [S, H], or None
    → h [B, T, H, V] in the type of q, last C, n, m (without numbers where they are not wanted); batches as in ``Spans``.

    ``chunk``: steps between the states that are kept for the backward; the wider they are, the more when it is None.
    """
    kind = q.dtype
    if not q.dtype == k.dtype == v.dtype:  # a product is of one type
        q, k, v = q.float(), k.float(), v.float()
    chunk = chunk_of(q.shape[-1], v.shape[-1]) if chunk is None else chunk
    found = _mlstm(
        q, k, v, input_gate, forget_gate, C, n, m, cu_seqlens, index, direction, own, scale, eps, exponential, divide, final, chunk
    )
    return found[0].to(kind), *found[1:4]


def chunk_of(key: int, value: int) -> int:
    """A chunk's products cost as much as its state's around K · V / (K + V) steps; states of each chunk should not outweigh q, k and v."""
    return CHUNKS[0] if max(key, value) <= 64 else CHUNKS[1]


def block(width: int, largest: int = 64) -> int:
    """Columns of a tile: a power of two with the least padding, the largest one of those."""
    return min((-(-width // size) * size, -size) for size in (16, 32, 64, 128) if size <= largest)[1] * -1


def max_plus_scan(
    x: Tensor, log_decay: Tensor, state: Tensor, *, cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool
) -> tuple[Tensor, Tensor]:
    """m_t = max(log_decay_t + m_{t-1}, x_t). x, log_decay: [B, T, ...]; state: [S, ...] → m [B, T, ...] in float32, the last one."""
    return _max_plus_scan(x, log_decay, state, cu_seqlens, index, direction, own)


@torch.library.custom_op("visionrnn::triton_max_plus_scan", mutates_args=(), device_types=("cpu", "cuda"))
def _max_plus_scan(
    x: Tensor, log_decay: Tensor, state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor]:  # fmt: skip
    spans, D = Spans.of(x, cu_seqlens, index, direction, own), state.shape[1:].numel()
    m, last = state.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)
    tiles = [Config({"D": D, "BT": steps, "BD": channels}, warps) for steps, channels, warps in ((64, 16, 4), (128, 8, 4), (32, 32, 4))]
    launch(
        f"{MODULE}.max_plus_scan_forward", lambda c: (spans.sequences, -(-D // c["BD"])),
        {"x": x, "log_decay": log_decay, "state": state, "m": m, "last": last, **spans.arguments()}, tiles, flops=2 * m.numel(),
    )  # fmt: skip
    return m, last


@_max_plus_scan.register_fake
def _(x, log_decay, state, cu_seqlens, index, direction, own):
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    return state.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)


def _constants(q: Tensor, v: Tensor, exponential: bool, chunk: int, divide: bool | None = None) -> dict[str, Any]:
    constants = {"H": q.shape[2], "K": q.shape[3], "V": v.shape[3], "EXPONENTIAL": exponential, "CHUNK": chunk}
    return constants if divide is None else {**constants, "DIVIDE": divide}


Choices = tuple[tuple[int, int, int], ...]  # steps of a tile, its largest number of columns, warps
SWEEPS: Choices = ((64, 64, 4), (32, 64, 4), (64, 32, 4), (32, 32, 2))  # through a sequence: large tiles, since the next one has to wait
SINGLE_SWEEPS: Choices = ((32, 64, 4), (32, 32, 2))


def single_tiles(key: int, value: int) -> Choices:
    """Of float32, whose products are three: what fits registers. Wide tiles where each of many would compute the same scores again."""
    wide = (16, 64, 8 if block(key) + block(value) > 64 else 4)
    return (wide, (32, 32, 8)) if max(key, value) > 64 else ((32, 32, 8), wide)


def backward_sweeps(key: int, value: int) -> Choices:
    return ((32, 64, 8 if block(key) + block(value) == 128 else 4),)


def configs(constants: dict[str, Any], dtype: torch.dtype, choices: Choices) -> list[Config]:
    precision = "tf32" if dtype == torch.float16 else product_precision()  # 11 bits, as many as float16 has
    found: dict[tuple, Config] = {}
    for steps, columns, warps in choices:
        tile = {"BT": steps, "BK": block(constants["K"], columns), "BV": block(constants["V"], columns), "PRECISION": precision}
        config = Config({**constants, **tile}, warps)
        found.setdefault(config.key(), config)
    return list(found.values())


def _columns(constants: Any) -> tuple[int, int]:
    """Tiles of keys and of values."""
    return -(-constants["K"] // constants["BK"]), -(-constants["V"] // constants["BV"])


@torch.library.custom_op("visionrnn::triton_mlstm", mutates_args=(), device_types=("cpu", "cuda"))
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor, C: Optional[Tensor], n: Optional[Tensor],  # noqa: UP045
    m: Optional[Tensor], cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool, scale: float, eps: float,  # noqa: UP045
    exponential: bool, divide: bool, final: bool, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    found = _outputs(q, v, spans, exponential, final, chunk)
    h, last_C, last_n, last_m, states, norms, maxima, coarse, late, early, maximum, projected = found
    kept = {"states": states, "norms": norms, "maxima": maxima, "coarse": coarse, "late": late, "early": early, "maximum": maximum}
    gates = {"input_gate": input_gate, "forget_gate": forget_gate}
    last = {"last_C": last_C if final else None, "last_n": last_n if final else None, "last_m": last_m if final else None}
    (heads, keys), values, steps, single = q.shape[2:], v.shape[3], spans.N * spans.directions, q.dtype == torch.float32
    launch(
        f"{MODULE}.mlstm_states", lambda c: (spans.sequences, heads, _columns(c)[0] * _columns(c)[1]),
        {"k": k, "v": v, **gates, "C": C, "n": n, "m": m, **kept, **last, **spans.arguments()},
        configs(_constants(q, v, exponential, chunk), q.dtype, SINGLE_SWEEPS if single else SWEEPS),
        flops=2 * steps * heads * keys * values,
    )  # fmt: skip
    launch(
        f"{MODULE}.mlstm_output", lambda c: (spans.directions * spans.slots(chunk) * (chunk // c["BT"]), heads, _columns(c)[1]),
        {"q": q, "k": k, "v": v, **kept, "h": h, "projected": projected, "scale": scale, "eps": eps, **spans.arguments()},
        configs(_constants(q, v, exponential, chunk, divide), q.dtype, SWEEPS if q.dtype == torch.bfloat16 else single_tiles(keys, values)),
        flops=steps * heads * (2 * keys * values + chunk * (keys + values)),
    )  # fmt: skip
    return found  # type: ignore[return-value]  # twelve


def _outputs(q: Tensor, v: Tensor, spans: Spans, exponential: bool, final: bool, chunk: int) -> tuple[Tensor, ...]:
    """h, last C, n, m, states and their norms and maxima, of steps: sums of log f in three parts, m, p."""
    (heads, keys), values, slots = q.shape[2:], v.shape[3], spans.directions * spans.slots(chunk)
    number, steps = (spans.sequences if final else 0), (heads, spans.directions * spans.N)

    def single(*shape: int) -> Tensor:
        return q.new_empty(shape, dtype=torch.float32)

    return (
        q.new_empty(*spans.output(q), heads, values),
        single(number, heads, keys, values), single(number, heads, keys), single(number if exponential else 0, heads),
        q.new_empty(slots, heads, keys, values, dtype=kept_in(q)), single(slots, heads, keys), single(slots, heads),
        *(single(*steps) for _ in range(5)),
    )  # fmt: skip


def kept_in(q: Tensor) -> torch.dtype:
    """The type of states between chunks: they outgrow float16."""
    return torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32


@_mlstm.register_fake
def _(q, k, v, input_gate, forget_gate, C, n, m, cu_seqlens, index, direction, own, scale, eps, exponential, divide, final, chunk):
    return _outputs(q, v, Spans.of(q, cu_seqlens, index, direction, own), exponential, final, chunk)


@torch.library.custom_op("visionrnn::triton_mlstm_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _mlstm_backward(
    grad_h: Tensor, grad_C: Optional[Tensor], grad_n: Optional[Tensor], grad_m: Optional[Tensor], q: Tensor, k: Tensor, v: Tensor,  # noqa: UP045
    input_gate: Tensor, forget_gate: Tensor, C: Optional[Tensor], n: Optional[Tensor], cu_seqlens: Optional[Tensor],  # noqa: UP045
    index: Optional[Tensor], h: Tensor, last_C: Tensor, last_n: Tensor, states: Tensor, norms: Tensor, maxima: Tensor, coarse: Tensor,  # noqa: UP045
    late: Tensor, early: Tensor, maximum: Tensor, projected: Tensor, direction: int, own: bool, scale: float, eps: float, exponential: bool,
    divide: bool, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    slots, total, (heads, keys), values = norms.shape[0], spans.N * spans.directions, q.shape[2:], v.shape[3]
    gates = {"input_gate": input_gate, "forget_gate": forget_gate}
    kept = {"states": states, "norms": norms, "maxima": maxima, "coarse": coarse, "late": late}
    constants = _constants(q, v, exponential, chunk, divide)
    half = q.dtype == torch.bfloat16  # float16 is computed in float32 here
    sweep = configs(constants, q.dtype, backward_sweeps(keys, values) + (((64, 64, 8),) if half else ()))
    tiles = _columns(sweep[0].constants)
    initial = C is not None
    grad_states, grad_norms, grad_projected = torch.empty_like(states), torch.empty_like(norms), torch.empty_like(projected)
    inverse, pull, tails = torch.empty_like(maximum), torch.empty_like(maximum), norms.new_empty(tiles[0] * tiles[1], slots, heads)
    of_C, of_n = (norms.new_empty(value.shape if value is not None else 0) for value in (C, n))
    of_m = norms.new_empty(tiles[0] * tiles[1], spans.sequences if initial and exponential else 0, heads)
    launch(
        f"{BACKWARD}.mlstm_backward_states", lambda c: (spans.sequences, heads, tiles[0] * tiles[1]),
        {
            "q": q, "h": h, "grad_h": grad_h.contiguous(), **gates, "C": C, "n": n, "last_C": last_C, "last_n": last_n, **kept,
            "maximum": maximum, "projected": projected, "inverse": inverse,
            "grad_last_C": grad_C, "grad_last_n": grad_n, "grad_last_m": grad_m, "grad_states": grad_states, "grad_norms": grad_norms,
            "grad_projected": grad_projected, "pull": pull, "tails": tails, "grad_C": of_C if initial else None,
            "grad_n": of_n if initial else None, "grad_m": of_m if initial else None, "scale": scale, "eps": eps, **spans.arguments(),
        },
        sweep, flops=2 * total * heads * keys * values,
    )  # fmt: skip
    inputs = configs(constants, q.dtype, ((32, 64, 4), (64, 64, 8)) if half else single_tiles(keys, values)[:1])
    parts = _columns(inputs[0].constants)
    lead = spans.output(q)
    of_q, of_k, of_v = (value.new_empty(*lead, *value.shape[2:]) for value in (q, k, v))
    flows = norms.new_empty(parts[0], 3, heads, total)
    launch(
        f"{BACKWARD}.mlstm_backward_inputs", lambda c: (slots * (chunk // c["BT"]), heads, 2 * parts[0] + parts[1]),
        {
            "q": q, "k": k, "v": v, "grad_h": grad_h.contiguous(), **kept, "early": early, "grad_states": grad_states,
            "grad_norms": grad_norms, "grad_projected": grad_projected, "inverse": inverse, "grad_q": of_q, "grad_k": of_k, "grad_v": of_v,
            "flows": flows, "scale": scale, **spans.arguments(),
        },
        inputs, flops=total * heads * (6 * keys * values + chunk * (3 * keys + 3 * values)),
    )  # fmt: skip
    of_input, of_forget = (value.new_empty(*lead, heads) for value in (input_gate, forget_gate))
    config = Config({"H": heads, "EXPONENTIAL": exponential, "CHUNK": chunk, "KEY_TILES": parts[0], "TILES": tiles[0] * tiles[1]}, warps=1)
    launch(
        f"{BACKWARD}.mlstm_backward_gates", lambda c: (slots, heads),
        {
            **gates, "maxima": maxima, "maximum": maximum, "pull": pull, "flows": flows, "tails": tails, "grad_input_gate": of_input,
            "grad_forget_gate": of_forget, **spans.arguments(),
        },
        [config], flops=10 * total * heads,
    )  # fmt: skip
    of_q, of_k, of_v, of_input, of_forget = map(spans.summed, (of_q, of_k, of_v, of_input, of_forget))
    return of_q, of_k, of_v, of_input, of_forget, of_C, of_n, of_m.sum(0)


@_mlstm_backward.register_fake
def _(grad_h, grad_C, grad_n, grad_m, q, k, v, input_gate, forget_gate, C, n, cu_seqlens, index, h, *rest):
    exponential, direction, own = rest[-3], rest[-7], rest[-6]
    sequences = Spans.of(q, cu_seqlens, index, direction, own).sequences if C is not None and exponential else 0
    states = (q.new_empty(value.shape if value is not None else 0, dtype=torch.float32) for value in (C, n))
    heads = q.shape[2]
    m = q.new_empty(sequences, heads, dtype=torch.float32)
    return *(value.new_empty(value.shape) for value in (q, k, v, input_gate, forget_gate)), *states, m


def _setup(ctx, inputs, output):
    q, k, v, input_gate, forget_gate, C, n, _, cu_seqlens, index, ctx.direction, ctx.own, *options = inputs
    ctx.scale, ctx.eps, ctx.exponential, ctx.divide, _, ctx.chunk = options
    h, last_C, last_n, _, *kept = output
    ctx.save_for_backward(q, k, v, input_gate, forget_gate, C, n, cu_seqlens, index, h, last_C, last_n, *kept)
    watch(ctx, output[:4])


def _backward(ctx, grad_h, *given):
    shape, dtype, device = ctx.watched[0]
    grad_h = torch.zeros(shape, dtype=dtype, device=device) if grad_h is None else grad_h
    last = (None if value is None else value.contiguous() for value in states_together(given[:3], ctx.watched[1:]))
    options = (ctx.direction, ctx.own, ctx.scale, ctx.eps, ctx.exponential, ctx.divide, ctx.chunk)
    saved = ctx.saved_tensors
    *found, C, n, m = _mlstm_backward(grad_h, *last, *saved, *options)
    states = (None, None, None) if saved[5] is None else (C, n, m if ctx.exponential else None)
    return *found, *states, *(None,) * 10


_mlstm.register_autograd(_backward, setup_context=_setup)
