"""Rules that translate the names of a state dict, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """A published name and ours, as templates with the same wildcards in the same order.

    ``*`` stands for one part between dots, a closing ``**`` for all further parts, which ``table`` translates (without one they stay).
    What differs in the shape: ``unit_axes``, axes of size one that only the published tensor has; ``own_axes``, such axes that only ours
    has; ``part`` (i, n), it is the i-th of n tensors which ours holds one after the other along the first axis, or along a new first
    axis with ``stacked``.
    """

    official: str
    ours: str
    table: Table = ()
    unit_axes: tuple[int, ...] = ()
    own_axes: tuple[int, ...] = ()
    part: tuple[int, int] | None = None
    stacked: bool = False


Table = tuple[Rule, ...]


def to_ours(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our state dict from one with published names; names without a rule stay.

    Raises ValueError when a tensor of ours lacks one of its published parts.
    """
    translated: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    rules: dict[str, Rule] = {}
    for key, value in state.items():
        name, rule = _translate(key, table, "official", "ours")
        if rule is not None:
            value = _moved(value, rule.unit_axes, rule.own_axes)
            if rule.part is not None:
                parts.setdefault(name, {})[rule.part[0]] = value
                rules[name] = rule
                continue
        translated[name] = value
    for name, found in parts.items():
        number = rules[name].part[1]  # type: ignore[index]
        if len(found) < number:
            raise ValueError(f"{name}: {len(found)} of the {number} published tensors it is made of are there")
        ordered = [found[i] for i in range(number)]
        translated[name] = torch.stack(ordered) if rules[name].stacked else torch.cat(ordered)
    return translated


def to_official(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """The way back: published names and shapes from our state dict; names without a rule stay."""
    translated: dict[str, Tensor] = {}
    for key, value in state.items():
        _, rule = _translate(key, table, "ours", "official")
        pieces: Sequence[Tensor] = (value,)
        if rule is not None and rule.part is not None:
            pieces = value.unbind(0) if rule.stacked else value.chunk(rule.part[1])
        for i, piece in enumerate(pieces):
            name, rule = _translate(key, table, "ours", "official", part=i)
            translated[name] = piece if rule is None else _moved(piece, rule.own_axes, rule.unit_axes)
    return translated


def _moved(value: Tensor, gone: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """``value`` without its axes ``gone``, of size one, and with such axes where ``new`` says."""
    value = value.squeeze(gone) if gone else value
    for axis in sorted(new):
        value = value.unsqueeze(axis)
    return value


def _translate(key: str, table: Table, source: str, target: str, part: int = 0) -> tuple[str, Rule | None]:
    """The name of ``key`` on the other side and the rule that tells its value's shape; of a joined tensor, the name of one part."""
    for rule in table:
        found = _pattern(getattr(rule, source)).fullmatch(key)
        if found is None or (rule.part is not None and source == "ours" and rule.part[0] != part):
            continue
        pieces = list(found.groups())
        last: Rule | None = rule
        if rule.table:
            pieces[-1], last = _translate(pieces[-1], rule.table, source, target, part)
        wild = re.split(r"\*\*|\*", getattr(rule, target))
        return "".join(text + piece for text, piece in zip(wild, [*pieces, ""], strict=True)), last
    return key, None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\*\*", "(.+)").replace(r"\*", "([^.]+)"))
