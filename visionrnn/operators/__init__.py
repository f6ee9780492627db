"""Sequence operators by name: ``OPERATORS.build(dict(type="mamba"), dim=64)``. One file per operator; every file here is imported."""

from importlib import import_module
from pkgutil import iter_modules

from visionrnn.operators.base import Operator, State

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Operator", "State"]
