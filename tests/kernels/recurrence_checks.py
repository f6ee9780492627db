"""What the tests of all recurrences share: which samples and back ends there are, packing, and inputs that are hard on purpose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from visionrnn.kernels import available_backends
from visionrnn.testing import BOUNDS, SAMPLES, Sample, error

# Values that a gate must survive, by argument name: all pairs of neighbours in time occur.
EXTREMES = {
    "log_decay": (-50.0, 0.0, -1e-3),
    "delta": (-50.0, 50.0),
    "dt": (-50.0, 50.0),
    "scores": (-50.0, 50.0),
    "input_gate": (-50.0, 50.0),
    "forget_gate": (-50.0, 50.0),
    "beta": (0.0, 2.0),
}


def backends_of(sample: Sample) -> tuple[str, ...]:
    return available_backends(sample.family, sample.kernel, "cpu")


def pairs(*without: str, stateful: bool = False) -> pytest.MarkDecorator:
    """Parametrises over (sample, back end), with ``stateful`` only over samples that carry a state."""
    chosen = [sample for sample in SAMPLES.values() if sample.states or not stateful]
    found = [(sample, backend) for sample in chosen for backend in backends_of(sample) if backend not in without]
    return pytest.mark.parametrize(("sample", "backend"), found, ids=[f"{sample.name}-{backend}" for sample, backend in found])


def samples(*needed: str, real: bool = False) -> pytest.MarkDecorator:
    """Parametrises over the samples that have certain back ends, with ``real`` only over those without complex inputs."""
    found = [sample for sample in SAMPLES.values() if set(needed) <= set(backends_of(sample)) and not (real and is_complex(sample))]
    return pytest.mark.parametrize("sample", found, ids=[sample.name for sample in found])


def is_complex(sample: Sample) -> bool:
    return any(isinstance(given, torch.Tensor) and given.is_complex() for given in sample.inputs().values())


def check_agreement(sample: Sample, backend: str, dtype: torch.dtype, **sizes: int) -> None:
    """Output, states and gradients against the reference in float64; the bound comes from the reference's own error in ``dtype``."""
    inputs = sample.inputs(**sizes)
    exact = sample.gradients(inputs, backend="reference")
    rounded = cast(inputs, dtype)
    reference = sample.gradients(rounded, backend="reference")
    for name, value in sample.gradients(rounded, backend=backend).items():
        bound = 1e-12 if dtype == torch.float64 else BOUNDS[dtype] * error(reference[name], exact[name]) + 1e-6
        assert error(value, exact[name]) <= bound, name


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """In ``dtype``; complex ones in the matching complex type, of single precision beside half types: torch hardly computes in smaller."""
    paired = torch.promote_types(dtype, torch.complex64)
    return {
        name: given.detach().to(paired if given.is_complex() else dtype) if isinstance(given, Tensor) else given
        for name, given in inputs.items()
    }


def time_slice(sample: Sample, inputs: dict[str, Any], start: int, stop: int, length: int) -> dict[str, Any]:
    """Steps start … stop of a whole of ``length`` steps; arguments with several rows per step keep them together."""

    def cut(name: str, given: Any) -> Any:
        if name not in sample.timed:
            return given
        rows = given.shape[1] // max(length, 1)
        return given[:, start * rows : stop * rows]

    return {name: cut(name, given) for name, given in inputs.items()}


def flip(sample: Sample, name: str, value: Tensor, length: int) -> Tensor:
    """Reversed in time where ``value`` (an input, or "out", or "d input") has a time axis; rows of one step keep their order."""
    if (name != "out" and name.removeprefix("d ") not in sample.timed) or not length:
        return value
    return value.unflatten(1, (length, -1)).flip(1).flatten(1, 2)


def packed_inputs(sample: Sample, lengths: list[int], dtype: torch.dtype) -> tuple[dict[str, Any], Tensor, list[dict[str, Any]]]:
    """One packed batch with a state per sequence, its boundaries, and the same sequences one by one."""
    inputs = sample.inputs(batch=1, length=sum(lengths), heads=2, key=5, value=7, dtype=dtype)
    many = sample.inputs(batch=len(lengths), length=1, heads=2, key=5, value=7, dtype=dtype, seed=1)
    inputs |= {name: many[name] for name in sample.states}
    bounds = [0, *accumulate(lengths)]
    parts = []
    for i in range(len(lengths)):
        part = time_slice(sample, inputs, bounds[i], bounds[i + 1], bounds[-1])
        parts.append(part | {name: inputs[name][i : i + 1] for name in sample.states})
    return inputs, torch.tensor(bounds), parts


def joined(sample: Sample, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the packed run should give, from the results of the sequences one by one."""

    def join(name: str) -> Tensor:
        values, bare = [part[name] for part in parts], name.removeprefix("d ")
        if name == "out" or bare in sample.timed:
            return torch.cat(values, 1)
        return torch.cat(values) if bare in sample.states or name.startswith("state ") else torch.stack(values).sum(0)

    return {name: join(name) for name in parts[0]}


def extreme_inputs(sample: Sample, dtype: torch.dtype, **sizes: int) -> dict[str, Any]:
    """Sample inputs whose gates jump between the ends of what is allowed."""
    inputs = cast(sample.inputs(**sizes), dtype)
    for name, values in EXTREMES.items():
        if isinstance(inputs.get(name), Tensor) and not inputs[name].is_complex():
            choice = torch.randint(len(values), inputs[name].shape, generator=torch.Generator().manual_seed(2))
            inputs[name] = torch.tensor(values, dtype=dtype)[choice]
    return inputs


def same_bits_on_threads(run: Callable[[], dict[str, Tensor]], counts: tuple[int, ...] = (1, 2, 3)) -> dict[str, Tensor]:
    """What ``run`` gives; asserts that it is the same, bit for bit, with each number of threads."""
    before, found = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
    return found[0]


def scattered(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same values with the axes in reverse order in memory."""

    def scatter(given: Any) -> Any:
        turned = isinstance(given, Tensor) and given.dim() > 1
        return given.detach().transpose(0, -1).contiguous().transpose(0, -1) if turned else given

    return {name: scatter(given) for name, given in inputs.items()}
