"""Registries: names in configs and on command lines → classes. Unknown names and misspelt options fail with the choices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Registry:
    """Name → class. ``build`` never writes into the config it is given.

    Example: ``OPERATORS.build(dict(type="mamba", d_state=16), dim=64)``.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, Callable] = {}

    def register(self, name: str) -> Callable[[Callable], Callable]:
        """Decorator: makes the class known as ``name``. Raises ValueError when the name is taken by another class."""

        def add(target: Callable) -> Callable:
            if name in self._classes and self._classes[name] is not target:
                raise ValueError(f"{self.kind} {name!r} is registered already, by {self._classes[name]!r}")
            self._classes[name] = target
            return target

        return add

    def get(self, name: str) -> Callable:
        """The class of ``name``; KeyError lists the registered names."""
        if name not in self._classes:
            raise KeyError(f"unknown {self.kind} {name!r}; expected one of {sorted(self._classes)}")
        return self._classes[name]

    def build(self, config: Mapping[str, Any] | str, **arguments: Any) -> Any:
        """Builds ``config['type']`` with the config's other keys and ``arguments`` (which win).

        Raises KeyError for an unknown name and TypeError, naming the accepted options, for an unknown option.
        """
        options: dict[str, Any] = {"type": config} if isinstance(config, str) else dict(config)
        name = options.pop("type", None)
        if name is None:
            raise KeyError(f"{self.kind} config {config!r} has no 'type'; expected one of {sorted(self._classes)}")
        target = self.get(name)
        options.update(arguments)
        try:
            inspect.signature(target).bind(**options)
        except TypeError as error:
            accepted = [p for p in inspect.signature(target).parameters if p != "self"]
            raise TypeError(f"{self.kind} {name!r}: {error}; accepted options: {accepted}") from None
        return target(**options)

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))


OPERATORS = Registry("operator")
SERIALIZERS = Registry("serializer")
BLOCKS = Registry("block")
BACKBONES = Registry("backbone")
DATASETS = Registry("dataset")
