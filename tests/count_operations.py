"""Counts what may make a host wait, or sorts: operations in dispatch, so nothing that a module calls is missed."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SORTS = ("sort", "argsort", "msort", "unique", "unique_consecutive", "unique_dim", "_unique", "_unique2")
SYNCHRONISING = ("nonzero", "masked_select", "_local_scalar_dense", "item", "repeat_interleave", "is_nonzero", "equal", "bincount")


class CountOperations(TorchDispatchMode):
    """Within it, ``sorts`` and ``waits`` are the numbers of calls so far, ``calls`` the number of each operation.

    On a CPU ``Tensor.tolist`` reads memory without an operation; it is one wait wherever tensors live, so it is counted on its own.
    Indexing by a mask is a nonzero inside ``index``. ``repeat_interleave`` by an int knows its size and does not count.
    """

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __enter__(self):
        tolist = torch.Tensor.tolist

        def counted(tensor):
            self.calls["tolist"] += 1
            return tolist(tensor)

        self._patch = mock.patch.object(torch.Tensor, "tolist", counted)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *exception):
        self._patch.stop()
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, _, overload = func.__name__.partition(".")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            self.calls["nonzero"] += len(masks)
        if name != "repeat_interleave" or "int" not in overload:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def sorts(self) -> int:
        return sum(self.calls[name] for name in SORTS)

    @property
    def waits(self) -> int:
        return self.calls["tolist"] + sum(self.calls[name] for name in SYNCHRONISING)
