"""flash-linear-attention's kernels, compiled ahead of time over all configurations that its tuner would try (tools/aot.py --peers).

Its public functions run on CPU tensors while a driver that only answers questions says it is an H100; every launch is written down instead
of run. So the kernels, their arguments and the configurations left after its own pruning are its own choice; which of these the tuner would
pick is not known without a GPU, therefore all are compiled, and the best and worst figure over them is printed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from visionrnn.analysis.compiled import Compilation, compilation, compile_all, of_launch, triton_target
from visionrnn.testing.shipped import DTYPES, SHIPPED, Shipped

TARGET = "sm_90"
SHARED, PROCESSORS = 232448, 132  # of an H100
BATCH, LENGTH, HEADS, WIDTH = 1, 4096, 4, 128


@dataclass
class Called:
    """A launch: the kernel, its tensors' bytes, and one compilation for each configuration."""

    kernel: str
    traffic: int
    compilations: list[Compilation]


class Driver:
    """Answers what is asked of a driver before a launch."""

    utils = SimpleNamespace(
        get_device_properties=lambda *_: {"multiprocessor_count": PROCESSORS, "max_shared_mem": SHARED, "warpSize": 32},
    )

    def get_current_target(self) -> Any:
        return triton_target(TARGET)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Same(list):
    """One value whatever the index: tensors on a CPU have no device number."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(0)


@contextmanager
def pretended() -> Iterator[list[Called]]:
    """Inside, fla may be imported and called; launches are collected."""
    import triton
    from triton.runtime import JITFunction
    from triton.runtime.autotuner import Autotuner

    called: list[Called] = []
    group: list[Called] | None = None

    def run(function: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> None:
        named = dict(zip(function.arg_names, args, strict=False)) | kwargs
        found = Called(function.fn.__qualname__, _bytes(named.values()), [compilation(function, TARGET, named)])
        (called if group is None else group).append(found)

    def tune(tuner: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal group
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        configs = tuner.prune_configs(kwargs) if len(tuner.configs) > 1 else tuner.configs
        outer, group = group, []
        for config in configs:
            tuner.fn.run(*args, **{**kwargs, **config.all_kwargs()})
        tried, group = group, outer
        whole = Called(tried[0].kernel, tried[0].traffic, [one for found in tried for one in found.compilations])
        (called if group is None else group).append(whole)

    with ExitStack() as stack:
        for patch in (
            mock.patch.object(JITFunction, "run", run),
            mock.patch.object(Autotuner, "run", tune),
            mock.patch.object(triton.runtime.driver, "_active", Driver()),
            mock.patch.object(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100"),
            mock.patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            mock.patch.object(torch.cuda, "device_count", lambda: 1),
        ):
            stack.enter_context(patch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fla.ops.utils.cache
            import fla.utils.hardware as hardware

        stack.enter_context(mock.patch.object(fla.ops.utils.cache.CachedAutotuner, "run", tune))
        hardware.check_shared_mem.cache_clear()
        stack.enter_context(mock.patch.object(hardware, "get_all_max_shared_mem", lambda: Same([SHARED])))
        yield called


def _drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.rand(*shape, dtype=dtype).sub(0.5).requires_grad_()


def _heads(*last: int, width: int = WIDTH) -> Tensor:
    return _drawn(BATCH, LENGTH, HEADS, *(last or (width,)))


def _gate(*last: int) -> Tensor:
    return torch.nn.functional.logsigmoid(_drawn(BATCH, LENGTH, HEADS, *last, dtype=torch.float32)).detach().requires_grad_()


def calls() -> dict[str, Callable[[], Tensor]]:
    """Our sample's name → fla's call of the same function. fla has to be importable."""
    from fla.ops import delta_rule, gated_delta_rule, gla, hgrn, kda, rwkv6, rwkv7, simple_gla, ttt

    beta = _drawn(BATCH, LENGTH, HEADS)
    narrow = dict(width=64)
    return {
        "diagonal_scan": lambda: hgrn.chunk_hgrn(_drawn(BATCH, LENGTH, 128), _drawn(BATCH, LENGTH, 128), output_final_state=True)[0],
        "simple_gla": lambda: simple_gla.chunk_simple_gla(_heads(), _heads(), _heads(), _gate(), output_final_state=True)[0],
        "gla": lambda: gla.chunk_gla(_heads(), _heads(), _heads(), _gate(WIDTH), output_final_state=True)[0],
        "rwkv6": lambda: rwkv6.chunk_rwkv6(
            *(_heads(32) for _ in range(3)), _gate(32), _drawn(HEADS, 32), output_final_state=True
        )[0],
        "delta_rule": lambda: delta_rule.chunk_delta_rule(_heads(), _heads(), _heads(), beta, output_final_state=True)[0],
        "gated_delta_rule": lambda: gated_delta_rule.chunk_gated_delta_rule(
            _heads(), _heads(), _heads(), _gate(), beta, output_final_state=True
        )[0],
        "kda": lambda: kda.chunk_kda(_heads(), _heads(), _heads(), _gate(WIDTH), beta, output_final_state=True)[0],
        "generalized_delta_rule": lambda: rwkv7.chunk_rwkv7(
            _heads(**narrow), _gate(64), *(_heads(**narrow) for _ in range(4)), output_final_state=True
        )[0],
        "ttt_linear_fla": lambda: ttt.chunk_ttt_linear(
            *(_heads(**narrow) for _ in range(3)), _drawn(HEADS, 64), _drawn(HEADS, 64), _drawn(BATCH, LENGTH, HEADS, 1),
            output_final_state=True,
        )[0],
    }  # fmt: skip


_held: list[AbstractContextManager] = []


def pretend() -> None:
    """For the rest of a process: what fla defines at its import depends on the device."""
    _held.append(pretended())
    _held[0].__enter__()


def theirs(only: Iterable[str]) -> dict[str, tuple[list[Called], list[Called]]]:
    """Sample → launches of the forward and of the backward pass."""
    found = {}
    with pretended() as called:
        for name, call in calls().items():
            if any(part in name for part in only):
                called.clear()
                out = call()
                forward = list(called)
                called.clear()
                out.sum().backward()
                found[name] = forward, list(called)
    return found


def ours(sample: str) -> tuple[list[Called], list[Called]]:
    """The same of our kernels, at the same widths; the candidates are all that autotuning would try."""
    widths = next(shipped for shipped in SHIPPED if shipped.sample == sample)
    shipped = Shipped(sample, widths.heads, widths.key, widths.value, "batch", LENGTH, BATCH)
    found = [
        Called(
            stated.kernel.rpartition(".")[2],
            _bytes(stated.arguments.values()),
            [of_launch(stated, config, TARGET) for config in stated.candidates],
        )
        for stated in shipped.launches(DTYPES["bf16"])
    ]
    forward = len(shipped.launches(DTYPES["bf16"], backward=False))
    return found[:forward], found[forward:]


def _bytes(arguments: Iterable[Any]) -> int:
    return sum(value.numel() * value.element_size() for value in arguments if isinstance(value, Tensor))


FIGURES = ("registers", "spills", "shared", "occupancy", "instructions", "tensor", "loads")


def rows(launches: list[Called], figures: dict[Compilation, dict[str, Any]]) -> Iterator[str]:
    for called in launches:
        known = [figures[one] for one in called.compilations]
        compiled = [one for one in known if "error" not in one]
        cells = []
        for name in FIGURES:
            least, most = (choose(one[name] for one in compiled) for choose in (min, max))
            cells.append(f"{least}" if least == most else f"{least} … {most}")
        failed = f" ({len(known) - len(compiled)} fail)" if len(compiled) < len(known) else ""
        yield f"| `{called.kernel}` | {len(known)}{failed} | {' | '.join(cells)} | {called.traffic / 1e6:.1f} |"


def compare(only: Iterable[str], processes: int, count: bool) -> None:
    """Prints launches and bytes of each function; unless only to ``count``, the figures of its kernels too."""
    sides = {name: {"fla": pair, "ours": ours(name)} for name, pair in theirs(only).items()}
    print("| function | launches fla | ours | MB fla | ours |\n|---|---|---|---|---|")
    for name, found in sides.items():
        launches = [f"{len(forward)} + {len(backward)}" for forward, backward in found.values()]
        sizes = [" + ".join(f"{sum(one.traffic for one in part) / 1e6:.0f}" for part in pair) for pair in found.values()]
        print(f"| {' | '.join([name, *launches, *sizes])} |")
    for name, found in {}.items() if count else sides.items():
        jobs = [one for forward, backward in found.values() for called in forward + backward for one in called.compilations]
        figures = dict(compile_all(jobs, processes, pretend))
        for side, (forward, backward) in found.items():
            print(f"\n{name}, {side}:\n")
            print("| kernel | configurations |", " | ".join(FIGURES), "| MB |")
            print("|---|---" + "|---" * (len(FIGURES) + 1) + "|")
            print(*rows(forward + backward, figures), sep="\n", flush=True)
