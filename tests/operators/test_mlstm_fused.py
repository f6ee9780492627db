"""The inside of an mLSTM layer as one op: equal to the layer op by op, with its gradients, and small in memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from visionrnn.analysis.memory import TensorPeak
from visionrnn.kernels import native
from visionrnn.operators.mlstm import MLSTM
from visionrnn.testing import error

pytestmark = pytest.mark.skipif(not native.is_built(), reason=native.HOW_TO_BUILD)

FORMS = {
    "second version": dict(bias=True, offset_norm=True),
    "first version": dict(offset_norm=True),
    "head norm": dict(reverse=True),
    "sigmoid": dict(gating="sigmoid", bias=True),
}


def layer(dim=24, **options):
    torch.manual_seed(0)
    found = MLSTM(dim, **options)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


def gradients(operator, x, dtype, backend, state=None, **options):
    """Output, states, gradients of a fixed scalar of both."""
    operator.to(dtype).backend = operator.conv1d.backend = backend
    x, tensors = x.to(dtype).requires_grad_(), {name: value.to(dtype).requires_grad_() for name, value in (state or {}).items()}
    y, final = operator.scan(x, lambda u: operator.conv1d(u, None, options.get("cu_seqlens"))[0], tensors or None, **options, final=True)
    found = {"y": y, **final}
    named = {"x": x, **tensors, **dict(operator.named_parameters())}
    loss = torch.stack([(value * value).sum() for value in found.values()]).sum()
    return found | {f"d {name}": value for name, value in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)}


def check(operator, x, **options):
    """One op in float32 and the layer op by op in float32, against float64."""
    exact, parts = (
        gradients(operator, x, torch.float64, "chunkwise", **options),
        gradients(operator, x, torch.float32, "chunkwise", **options),
    )
    for name, value in gradients(operator, x, torch.float32, "native", **options).items():
        assert error(value, exact[name]) <= 5 * error(parts[name], exact[name]) + 2e-6, name


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("length", [1, 70, 150])
def test_agrees_with_the_parts(form, length):
    check(layer(**FORMS[form]), torch.randn(2, length, 24))


def test_orders_packed_sequences_and_states():
    operator, bounds = layer(**FORMS["second version"]), torch.tensor([0, 70, 70, 100])
    torch.manual_seed(6)  # of inputs whose divisors stay away from zero, so that both ways round alike in every build
    order = torch.cat([torch.randperm(70), 70 + torch.randperm(30)])
    state = {"C": torch.randn(3, 4, 12, 12), "n": torch.randn(3, 4, 12), "m": torch.randn(3, 4)}
    check(operator, torch.randn(1, 100, 24), state=state, cu_seqlens=bounds, order=(order, order.argsort()), reverse=True)
    rows = torch.randperm(40)
    check(operator, torch.randn(3, 40, 24), order=(rows, rows.argsort()), reverse=False)


@pytest.mark.parametrize("length", [1, 2, 70])
def test_images_do_not_depend_on_the_rest_of_their_batch(length):
    operator, x = layer(**FORMS["second version"]), torch.randn(3, length, 24)
    assert torch.equal(operator(x)[1:2], operator(x[1:2]))
    packed = operator(x.view(1, -1, 24), torch.arange(4) * length)
    assert torch.equal(packed.view(3, length, 24), operator(x))


def test_wrong_states_are_refused():
    with pytest.raises(ValueError, match=r"state C: expected shape \[2, 4, 12, 12\], got \[1, 4, 12, 12\]"):
        layer().mix(torch.randn(2, 5, 24), {**layer().mix(torch.randn(2, 5, 24))[1], "C": torch.zeros(1, 4, 12, 12)})


@pytest.mark.parametrize("other", ["blocks", "float64", "autocast"])
def test_what_the_op_does_not_take_runs_op_by_op(other):
    operator, x = layer(qkv_block=8 if other == "blocks" else 4), torch.randn(1, 9, 24)
    want = operator.double()(x.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=other == "autocast"):
        got = operator(x.double()) if other == "float64" else operator.float()(x)
    assert error(got, want) <= {"blocks": 2e-6, "float64": 0, "autocast": 5e-2}[other]


def test_empty_sequences():
    operator = layer()
    y = operator(torch.randn(2, 0, 24, requires_grad=True))
    y.sum().backward()
    assert y.shape == (2, 0, 24) and all(not parameter.grad.any() for parameter in operator.parameters() if parameter.grad is not None)


def test_memory_for_the_backward_is_small():
    """Of a layer's inner rows u and z are kept, gates and few states: no c, q, k, v or h, and not what the last projection reads."""
    operator, x = layer(96), torch.randn(1, 1024, 96)
    with TensorPeak() as memory:
        y = operator(x)
    numbers = 2 * 192 + 8 + 192 * 48 // 128 + 96  # the last: y itself
    assert memory.now / 4 <= 1024 * numbers + 5000, y.shape


def test_a_checkpoint_keeps_nothing_of_the_layer():
    operator, x = layer(96), torch.randn(1, 1024, 96, requires_grad=True)
    want = torch.autograd.grad(operator(x).square().sum(), [x, *operator.parameters()])
    with TensorPeak() as memory:
        y = checkpoint(operator, x, use_reentrant=False)
    assert memory.now / 4 <= y.numel() + 5000
    for found, expected in zip(torch.autograd.grad(y.square().sum(), [x, *operator.parameters()]), want, strict=True):
        assert torch.equal(found, expected)


def test_opcheck_of_the_fused_op():
    operator, x, calls = layer(8, **FORMS["second version"]), torch.randn(2, 9, 8, requires_grad=True), []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "mlstm_mix" in func.name():
                calls.append((func, args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        operator(x).sum().backward()
    assert [func.name() for func, _ in calls] == ["visionrnn::mlstm_mix", "visionrnn::mlstm_mix_backward"]
    for func, args in calls:
        forward = not func.name().endswith("_backward")
        fresh = [
            value.detach().requires_grad_(forward and value.is_floating_point()) if isinstance(value, torch.Tensor) else value
            for value in args
        ]
        torch.library.opcheck(func, tuple(fresh))
