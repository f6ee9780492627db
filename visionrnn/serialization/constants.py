"""Tensors that are made once: small constants on a device, since a transfer from the host may make it wait, and what many blocks need."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor


def kept_on_device(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator for functions of hashable arguments, the last of them a device, that return a tensor on the host: remembers it there."""

    @lru_cache(maxsize=512)
    def kept(*arguments) -> Tensor:
        *rest, device = arguments
        with torch.inference_mode(False):  # it may serve training later
            return make(*rest, device).to(device)

    return wraps(make)(kept)


def kept(number: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for functions of hashable arguments that return tensors: remembers the last ``number`` results.

    In a traced graph, whose constants they would become, and for fake tensors, which are worth nothing later, they are made anew.
    """

    def decorate(make: Callable[..., Any]) -> Callable[..., Any]:
        @lru_cache(number)
        def remembered(*arguments):
            with torch.inference_mode(False):  # they may serve training later
                return make(*arguments)

        @wraps(make)
        def find(*arguments):
            anew = torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor
            return make(*arguments) if anew else remembered(*arguments)

        return find

    return decorate


@kept_on_device
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values``, numbers or nested tuples of them, as a tensor that must not be written to."""
    return torch.tensor(values, dtype=dtype)
