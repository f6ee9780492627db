"""Names and shapes of published weights and of ours, translated in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from visionrnn.official import lion, sequencer, vil
from visionrnn.official.rules import Rule, Table, to_official, to_ours


@dataclass(frozen=True)
class Family:
    """``table``: rules for a state dict with the given names; ``counters``: integer buffers only published files have, name → shape;
    ``ignored``: how names end of further buffers that only they have, and that are not made again on the way back."""

    table: Callable[[Iterable[str]], Table]
    counters: dict[str, tuple[int, ...]]
    ignored: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "lion": Family(lion.table, lion.COUNTERS),
    "sequencer": Family(sequencer.table, {}),
    "vil": Family(vil.table, {}, vil.IGNORED),
    "vil_package": Family(vil.package_table, {}, vil.IGNORED),
}

__all__ = ["FAMILIES", "Family", "Rule", "Table", "to_official", "to_ours"]
