"""Peak memory: of tensors, exactly; of the process, as the operating system counts it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorPeak(TorchDispatchMode):
    """``peak`` bytes of the tensors made inside its ``with`` block that were alive at one time.

    What an operator needs while it runs, besides its results, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and (key := self._key(leaf)) not in given | self._alive:
                self._alive.add(key)
                storage = leaf.untyped_storage()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        return out

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class ProcessPeak:
    """``bytes`` that the process grew by at its highest inside the ``with`` block; None where the system does not tell (not Linux).

    Includes libraries loaded meanwhile, and memory that malloc keeps. With CUDA, ``bytes`` is torch's peak on the GPU.
    """

    def __init__(self, cuda: bool = False):
        self.cuda = cuda
        self.bytes: int | None = None

    def __enter__(self) -> ProcessPeak:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._start: int | None = torch.cuda.memory_allocated()
            return self
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._start = None
        else:
            self._start = _resident("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        if self._start is not None:
            self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else _resident("VmHWM")) - self._start


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
