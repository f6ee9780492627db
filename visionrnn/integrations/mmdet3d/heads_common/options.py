"""Options of heads, as ``train_cfg`` and ``test_cfg`` of a config have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def filled(given: Mapping[str, Any] | None, defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``defaults`` with what is given. Raises ValueError, with ``name``, for options that are not known."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ValueError(f"{name}: unknown options {unknown}; expected some of {sorted(defaults)}")
    return {**defaults, **(given or {})}
