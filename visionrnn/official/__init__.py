"""Names and shapes of published weights and of ours, translated in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from visionrnn.official import lion, sequencer
from visionrnn.official.rules import Rule, Table, to_official, to_ours


@dataclass(frozen=True)
class Family:
    """``table``: rules for a state dict with the given names; ``counters``: integer buffers only published files have, name → shape."""

    table: Callable[[Iterable[str]], Table]
    counters: dict[str, tuple[int, ...]]


FAMILIES: dict[str, Family] = {"lion": Family(lion.table, lion.COUNTERS), "sequencer": Family(sequencer.table, {})}

__all__ = ["FAMILIES", "Family", "Rule", "Table", "to_official", "to_ours"]
