"""Runs an integration when the package it is for is imported, whichever of the two comes first; that package itself is not imported.

It works through the import system alone: nothing waits in a thread, and a package that is looked for but not imported is left as it is.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

INTEGRATIONS = {"timm": "visionrnn.integrations.timm"}
"""Package → the module of ours that is imported after it."""


def when_imported(package: str) -> None:
    """Has the package's integration imported now, if the package already is, and whenever it will be; may be called any number of times."""
    if not any(isinstance(finder, OnImport) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.insert(0, OnImport(package))
    module = sys.modules.get(package)
    if module is None:
        return
    spec = getattr(module, "__spec__", None)
    if getattr(spec, "_initializing", False):
        spec.__class__ = WaitingSpec  # type: ignore[union-attr, assignment]
        if not spec.__dict__["_initializing"]:  # another thread was done with it just now
            spec._initializing = False  # type: ignore[union-attr]
    else:
        integrate(package)


def integrate(package: str) -> None:
    """Imports the package's integration, or again if it was for another copy of the package; warns where that cannot be done."""
    name = INTEGRATIONS[package]
    done = sys.modules.get(name)
    try:
        if done is None:
            importlib.import_module(name)
        elif getattr(done, package, sys.modules.get(package)) is not sys.modules.get(package):  # no such name: being imported just now
            importlib.reload(done)
    except ImportError as error:  # of a version without something we need; who imports the package may not even want us
        warnings.warn(f"visionrnn could not register its models with {package}: {error}", stacklevel=2)


class OnImport:
    """A finder for ``sys.meta_path`` that finds nothing itself: it asks the others, and has their loader call :func:`integrate`."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.package:
            return None
        for finder in sys.meta_path:
            find = None if isinstance(finder, OnImport) else getattr(finder, "find_spec", None)  # some old finders have none
            spec = find and find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "__dict__") and not isinstance(spec.loader, type):
                    _integrate_after(spec.loader, name)
                return spec
        return None


def _integrate_after(loader: Any, name: str) -> None:
    """The next module of this name that the loader executes is integrated afterwards; the loader stays of its type."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:
            if loader.__dict__.get("exec_module") is exec_module:
                del loader.exec_module
            integrate(name)

    loader.exec_module = exec_module


class WaitingSpec(ModuleSpec):
    """The class given to the spec of a package in the middle of its import: Python clears ``_initializing`` at the end."""

    @property
    def _initializing(self) -> bool:
        return self.__dict__["_initializing"]

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if getattr(sys.modules.get(self.name), "__spec__", None) is self:  # it is not if the import failed
                integrate(self.name)
