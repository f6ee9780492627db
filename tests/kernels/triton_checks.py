"""What the tests of Triton kernels share. Without a GPU the kernels run in Triton's interpreter, on small inputs."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from recurrence_checks import cast, joined, packed_inputs
from torch import Tensor

from visionrnn.kernels import dispatch
from visionrnn.testing import BOUNDS, SAMPLES, Sample, error

pytest.importorskip("triton", reason="neither Triton's compiler nor its interpreter is there")
# Forms that other forms' kernels compute: one case of each kind shows that these are called as they should be.
COMPOSED = (
    "causal_conv_alone", "gateloop", "lightnet", "mlstm_sigmoid_undivided", "signed_diagonal_scan", "slstm_without_floor",
    "state_space_dual",
)  # fmt: skip
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def covered(sample: Sample) -> bool:
    return dispatch.has(sample.family, "triton", sample.kernel)


def triton_samples(stateful: bool = False) -> pytest.MarkDecorator:
    """Parametrises over the samples that Triton kernels cover."""
    found = [sample for sample in SAMPLES.values() if covered(sample) and (sample.states or not stateful)]
    return pytest.mark.parametrize("sample", found, ids=[sample.name for sample in found])


def triton_forms() -> pytest.MarkDecorator:
    """The same; composed forms are for the slow suite."""
    found = [sample for sample in SAMPLES.values() if covered(sample)]
    marks = {sample.name: [pytest.mark.slow] if sample.name in COMPOSED else [] for sample in found}
    return pytest.mark.parametrize("sample", [pytest.param(sample, id=sample.name, marks=marks[sample.name]) for sample in found])


def triton_cases(name: str, *values: Any, composed: Any, slow: tuple[Any, ...] = ()) -> pytest.MarkDecorator:
    """Parametrises over the samples and the values of another argument, of which a composed form has one in the fast suite."""

    def case(sample: Sample, value: Any) -> Any:
        later = value in slow or (sample.name in COMPOSED and value != composed)
        return pytest.param(sample, value, id=f"{sample.name}-{value}", marks=[pytest.mark.slow] if later else [])

    found = [sample for sample in SAMPLES.values() if covered(sample)]
    return pytest.mark.parametrize(("sample", name), [case(sample, value) for value in values for sample in found])


def moved(inputs: dict[str, Any], device: str = DEVICE) -> dict[str, Any]:
    return {name: value.detach().to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def check(sample: Sample, inputs: dict[str, Any], dtype: torch.dtype, **options: Any) -> None:
    """Output, states and gradients of Triton's kernels against the reference in float64; the bound is the reference's own error.

    In a half type that is at least the type's unit roundoff, since results are stored in it.
    """
    exact = sample.gradients(cast(inputs, torch.float64), backend="reference", **options)
    rounded = cast(inputs, dtype)
    reference = sample.gradients(rounded, backend="reference", **options)
    on_device = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in options.items()}
    for name, value in sample.gradients(moved(rounded), backend="triton", **on_device).items():
        unit = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        bound = BOUNDS[dtype] * max(error(reference[name], exact[name]), unit) + 1e-6
        found = error(value.cpu(), exact[name])
        assert found <= bound, f"{name}: {found:.2e}, allowed {bound:.2e}"


def packed(sample: Sample, lengths: list[int], **sizes: int) -> tuple[dict[str, Any], Tensor]:
    """Inputs of several sequences packed into one, with a state for each, and their boundaries."""
    inputs = sample.inputs(batch=1, length=sum(lengths), **sizes)
    many = sample.inputs(batch=len(lengths), length=1, seed=1, **sizes)
    return inputs | {name: many[name] for name in sample.states}, torch.tensor([0, *accumulate(lengths)])


__all__ = [
    "DEVICE",
    "cast",
    "check",
    "covered",
    "joined",
    "moved",
    "packed",
    "packed_inputs",
    "triton_cases",
    "triton_forms",
    "triton_samples",
]
