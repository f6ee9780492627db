"""Names and shapes of published weights and of ours, translated in both directions."""

from visionrnn.official.lion import LION
from visionrnn.official.rules import Rule, Table, to_official, to_ours

FAMILIES: dict[str, Table] = {"lion": LION}

__all__ = ["FAMILIES", "Rule", "Table", "to_official", "to_ours"]
