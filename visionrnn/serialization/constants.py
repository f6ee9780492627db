"""Small constants on a device, sent there once: each transfer from the host may make it wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

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


@kept_on_device
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values``, numbers or nested tuples of them, as a tensor that must not be written to."""
    return torch.tensor(values, dtype=dtype)
