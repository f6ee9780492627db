"""What is special about gated linear recurrences: closed forms, segments, strong gates, long rotations, arguments."""

from __future__ import annotations

import pytest
import torch

from visionrnn.kernels import available_backends, gated_linear_attention, lightnet, mlstm, state_space_dual, symmetric_retention
from visionrnn.kernels.gated_linear import chunkwise
from visionrnn.testing import BOUNDS, SAMPLES, error

BACKENDS = available_backends("gated_linear", "gated_linear_attention", "cpu")
DECAYS = ("linear_attention", "simple_gla", "gla", "rwkv6", "simple_gla_with_bonus")


def kind(backend: str) -> torch.dtype:
    return torch.float32 if backend == "native" else torch.float64


@pytest.mark.parametrize("name", [*DECAYS, "gateloop"])
def test_segments_join(name, monkeypatch):
    monkeypatch.setattr(chunkwise, "SEGMENT_ELEMENTS", 1)
    sample = SAMPLES[name]
    inputs = sample.inputs(batch=2, length=100, heads=2, key=5, value=7)
    want = sample.gradients(inputs, backend="reference")
    for what, value in sample.gradients(inputs, backend="chunkwise").items():
        assert error(value, want[what]) <= 1e-12, what


@pytest.mark.parametrize("name", ["simple_gla", "gla", "rwkv6", "simple_gla_with_bonus"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_weak_decays_keep_their_digits_beside_strong_ones(name, backend):
    """A sum of many strong decays must not swallow a weak one."""
    sample = SAMPLES[name]
    inputs = sample.inputs(batch=1, length=128, heads=2, key=4, value=4, dtype=torch.float32)
    with torch.no_grad():
        inputs["log_decay"][:, :20] = -50
        inputs["log_decay"][:, 20:] *= 1e-3
    exact = sample.gradients({what: given.double() for what, given in inputs.items()}, backend="reference")
    rounded = sample.gradients(inputs, backend="reference")
    for what, value in sample.gradients(inputs, backend=backend).items():
        assert error(value, exact[what]) <= BOUNDS[torch.float32] * error(rounded[what], exact[what]) + 1e-6, what


@pytest.mark.parametrize("name", DECAYS)
def test_saved_memory_is_linear(name):
    saved = {}
    for length in (512, 1024):
        inputs, total = SAMPLES[name].inputs(batch=1, length=length, dtype=torch.float32), 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            SAMPLES[name].run(inputs, backend="chunkwise")
        saved[length] = total
    assert saved[1024] < 2.1 * saved[512]


@pytest.mark.parametrize("backend", available_backends("gated_linear", "complex_gated_linear_attention", "cpu"))
def test_rotations_stay_exact_over_many_steps(backend):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3000, 1, 4, generator=generator) for _ in range(3))
    log_decay = torch.complex(torch.full((1, 3000, 1, 4), -1e-3), 3 * torch.rand(1, 3000, 1, 4, generator=generator))
    exact = gated_linear_attention(q.double(), k.double(), v.double(), log_decay.to(torch.complex128), backend="reference")
    rounded = gated_linear_attention(q, k, v, log_decay, backend="reference")
    found = gated_linear_attention(q, k, v, log_decay, backend=backend)
    assert error(found, exact) <= BOUNDS[torch.float32] * error(rounded, exact)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 9, 16, 37])
@pytest.mark.parametrize("reverse", [False, True])
def test_symmetric_retention_is_its_dense_form(backend, length, reverse):
    generator, size = torch.Generator().manual_seed(0), 8
    q, k, v = (torch.randn(2, length, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    log_decay = torch.tensor([-0.05, -0.5, -3.0], dtype=torch.float64)
    steps = torch.arange(length).flip(0) if reverse else torch.arange(length)
    ahead = steps[:, None] - steps[None, :]  # of the query before the key
    seen = (ahead >= 0) | (steps[:, None] // size == steps[None, :] // size)
    weights = (log_decay[:, None, None] * ahead.abs()).exp() * seen
    want = 0.5 * torch.einsum("bthk,bshk,hts,bshv->bthv", q, k, weights, v)
    inputs = (value.to(kind(backend)) for value in (q, k, v, log_decay))
    found = symmetric_retention(*inputs, chunk_size=size, reverse=reverse, backend=backend)
    assert error(found, want) <= (1e-6 if backend == "native" else 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lightnet_averages_values(backend):
    """Row c of the state is the mean of the values so far, weighted by the exponentials of key channel c."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 40, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = (20 * k).exp()
    states = (weights[..., None] * v[..., None, :]).cumsum(1) / weights.cumsum(1)[..., None]
    inputs = [value.to(kind(backend)) for value in (q, 20 * k, v)]
    o, (S, z) = lightnet(*inputs, scale=1.0, return_final_state=True, backend=backend)
    bound = 1e-5 if backend == "native" else 1e-12
    assert error(o, (q[..., None] * states).sum(-2)) <= bound
    assert error(S, states[:, -1]) <= bound and error(z, (20 * k).logsumexp(1)) <= bound
    empty = lightnet(*(value[:, :0] for value in inputs), return_final_state=True, backend=backend)[1]
    assert error(lightnet(*inputs, empty, scale=1.0, backend=backend), o) <= bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_mlstm_is_its_unstabilised_form(backend):
    """Where float64 can hold e^m, the stabiliser changes nothing."""
    sample = SAMPLES["mlstm"]
    inputs = {name: value.detach() for name, value in sample.inputs(batch=1, length=30, heads=2, key=4, value=5).items()}
    inputs["input_gate"] = 30 * inputs["input_gate"]
    found, _ = sample.run({name: value.to(kind(backend)) for name, value in inputs.items()}, backend=backend)
    C, n = (inputs[name] * inputs["m"].exp().reshape(1, 2, *shape) for name, shape in (("C", (1, 1)), ("n", (1,))))
    C, n = C.clone(), n.clone()
    for t in range(30):
        forget, gate = inputs["forget_gate"][:, t].sigmoid(), inputs["input_gate"][:, t].exp()
        q, k, v = (inputs[name][:, t] for name in "qkv")
        C = forget[..., None, None] * C + gate[..., None, None] * k[..., None] * v[..., None, :]
        n = forget[..., None] * n + gate[..., None] * k
        divisor = (0.5 * (q * n).sum(-1)).abs().clamp(min=1)
        assert error(found[:, t], 0.5 * (q[..., None] * C).sum(-2) / divisor[..., None]) <= 1e-3


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("gla", {"log_decay": torch.zeros(2, 9, 2)}, None),
        ("gla", {"log_decay": torch.zeros(2, 9, 3)}, r"log_decay: expected shape \[2, 9, 2\], got \[2, 9, 3\]"),
        ("gla", {"log_decay": torch.zeros(3)}, r"log_decay: expected shape \[2\], got \[3\]"),
        ("gla", {"log_decay": torch.zeros(2, 9, 2, 8, dtype=torch.complex64), "bonus": torch.zeros(2, 8)}, "bonus: expected None"),
        ("gla", {"initial_state": torch.zeros(2, 2, 8, 7)}, r"state: expected shape \[2, 2, 8, 8\], got \[2, 2, 8, 7\]"),
        ("gla", {"q": torch.zeros(2, 9, 8)}, r"q: expected \[B, T, H, K\], got \[2, 9, 8\]"),
        ("mlstm", {"gating": "softmax"}, r"gating='softmax'; expected one of \['exp', 'sigmoid'\]"),
        ("mlstm", {"normalize": False}, "normalize=False needs gating='sigmoid'"),
        ("mlstm", {"initial_state": torch.zeros(2)}, r"initial_state: expected a tuple \(C, n, m\), got Tensor"),
        ("lightnet", {"initial_state": (torch.zeros(2),)}, r"initial_state: expected a tuple \(S, z\)"),
        ("symmetric", {"log_decay": torch.zeros(2, 2)}, r"log_decay: expected \[H\], got \[2, 2\]"),
        ("symmetric", {"chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
        ("mamba2", {"B": torch.zeros(2, 9, 3, 4)}, "3 groups do not divide 2 heads"),
    ],
)
def test_wrong_arguments_are_named(function, change, message):
    rows = {name: torch.zeros(2, 9, 2, 8) for name in "qkv"}
    gates = {name: torch.zeros(2, 9, 2) for name in ("input_gate", "forget_gate")}
    projections = {name: torch.zeros(2, 9, 1, 4) for name in "BC"}
    call, inputs = {
        "gla": (gated_linear_attention, rows),
        "mlstm": (mlstm, rows | gates),
        "lightnet": (lightnet, rows),
        "symmetric": (symmetric_retention, rows | {"log_decay": torch.zeros(2)}),
        "mamba2": (state_space_dual, projections | {"x": torch.zeros(2, 9, 2, 8), "dt": gates["input_gate"], "A": torch.zeros(2)}),
    }[function]
    if message is None:
        assert call(**{**inputs, **change}).shape == (2, 9, 2, 8)
        return
    with pytest.raises(ValueError, match=message):
        call(**{**inputs, **change})
