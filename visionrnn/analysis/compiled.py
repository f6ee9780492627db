"""Kernels compiled ahead of time for GPUs that are not there: as a launch on such a GPU would compile them, argument by argument.

Needs Triton, in a process without TRITON_INTERPRET, and no driver: Triton brings the assemblers of NVIDIA and AMD with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from visionrnn.analysis import instructions
from visionrnn.kernels.launch import Config, Launch, jit_function

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
LARGEST_SHARED = 99 << 10  # bytes a program may have on consumer GPUs
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "waves_per_eu")
TYPES = {"*bf16": "bf16", "*fp16": "fp16"}


@dataclass(frozen=True)
class Compilation:
    """One kernel for one target; everything that Triton makes the machine code from. Equal ones are the same code."""

    module: str
    function: str
    target: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], Any], ...]
    options: tuple[tuple[str, Any], ...]
    label: str  # constants, warps and stages; arguments that are absent

    @property
    def dtype(self) -> str:
        """The half type that it reads or writes; "fp32" without one."""
        return next((TYPES[kind] for _, kind in self.signature if kind in TYPES), "fp32")

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}"


def triton_target(target: str) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget(*TARGETS[target])


def underlying(function: Any) -> Any:
    """The ``triton.jit`` function below decorators that tune it."""
    from triton.runtime import JITFunction

    while not isinstance(function, JITFunction):
        function = function.fn
    return function


def specialized(function: Any, target: str, arguments: Mapping[str, Any]) -> tuple[Any, list, dict]:
    """Backend of the target, and what Triton compiles a call of ``function`` for, found by its own code for launches.

    ``arguments`` are the call's, with constexpr ones, num_warps and num_stages.
    """
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(triton_target(target))
    bound, found, options = create_function_from_signature(function.signature, function.params, backend)(**arguments, debug=False)
    return backend, found, {"bound": bound, "options": options}


def cache_key(function: Any, target: str, arguments: Mapping[str, Any]) -> str:
    """By which Triton finds the compiled kernel of a call again."""
    from triton.runtime.jit import compute_cache_key

    _, found, call = specialized(function, target, arguments)
    return compute_cache_key({}, found, call["options"])


def compilation(function: Any, target: str, arguments: Mapping[str, Any], tuned: Iterable[str] = ()) -> Compilation:
    """``tuned``: names of the arguments to be told in the label, beside warps and stages; all constexpr ones when empty."""
    function = underlying(function)
    backend, found, call = specialized(function, target, arguments)
    options, signature, constants, attributes = function._pack_args(backend, {"debug": False, **call["options"]}, call["bound"], found, {})
    names, given = list(signature), dict(arguments)
    told = list(tuned) or [names[path[0]] for path in constants if function.params[path[0]].is_constexpr]
    absent = [f"-{name}" for name in names if name in given and given[name] is None]
    ones = [f"{names[path[0]]}=1" for path, value in constants.items() if not function.params[path[0]].is_constexpr and value == 1]
    even = [f"{names[path[0]]}%16" for path, value in attributes.items() if value and not signature[names[path[0]]].startswith("*")]
    sizes = [f"{name}={given.get(name, call['bound'].get(name))}" for name in told]
    label = " ".join([*sizes, f"w{options.num_warps}", f"s{options.num_stages}", *absent, *ones, *even])
    chosen = {name: value for name, value in call["options"].items() if name in OPTIONS}
    return Compilation(
        function.fn.__module__,
        function.fn.__name__,
        target,
        tuple(signature.items()),
        tuple(sorted(constants.items())),
        tuple((path, tuple(map(tuple, value))) for path, value in sorted(attributes.items())),
        tuple(sorted(chosen.items())),
        label,
    )


def launch_arguments(stated: Launch, config: Config, target: str) -> dict[str, Any]:
    """All that a candidate of a launch hands to Triton on a target."""
    constants = config.on(TARGETS[target][0])
    return {**stated.arguments, **constants, "num_warps": config.warps, "num_stages": config.stages}


def of_launch(stated: Launch, config: Config, target: str) -> Compilation:
    """What a candidate of a launch compiles to on a target."""
    return compilation(jit_function(stated.kernel), target, launch_arguments(stated, config, target), tuned=config.constants)


def compiled(job: Compilation) -> dict[str, Any]:
    """Figures of the machine code: ``instructions``' counts, ``shared`` bytes, ``programs`` and ``occupancy``; or ``error``."""
    import triton
    from triton.compiler import ASTSource

    function = underlying(getattr(import_module(job.module), job.function))
    attributes = {path: [list(pair) for pair in value] for path, value in job.attributes}
    source = ASTSource(function, dict(job.signature), dict(job.constants), attributes)
    try:
        kernel = triton.compile(source, target=triton_target(job.target), options=dict(job.options))
    except Exception as error:  # the compiler's own are of many types; each is a finding about the kernel
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"}
    backend, architecture, _ = TARGETS[job.target]
    found = instructions.nvidia(kernel.asm["cubin"]) if backend == "cuda" else instructions.amd(kernel.asm["amdgcn"])
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    programs, share = instructions.occupancy(architecture, found["registers"], shared, warps)
    products = kernel.asm["ttir"].count("tt.dot ")
    return {**found, "shared": shared, "programs": programs, "occupancy": round(share, 3), "products": products}


def compile_all(
    jobs: Iterable[Compilation], processes: int, prepare: Callable[[], None] | None = None
) -> Iterator[tuple[Compilation, dict[str, Any]]]:
    """Every compilation once, in several processes, each of which calls ``prepare`` first; results in the order of the jobs."""
    different = list(dict.fromkeys(jobs))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=prepare) as pool:
        yield from zip(different, pool.map(compiled, different), strict=True)
