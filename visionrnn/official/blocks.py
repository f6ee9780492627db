"""LION's blocks: published names and ours. The tables of all operators stand together, so no two rules may fit one name, on either side."""

from __future__ import annotations

from visionrnn.official.rules import Rule, Table

MAMBA: Table = (
    *(Rule(f"mamba.{name}.**", f"mixer.{name}.**") for name in ("in_proj", "out_proj")),
    *(Rule(f"mamba.{name}.**", f"mixer.directions.0.{name}.**") for name in ("conv1d", "x_proj", "dt_proj")),
    *(Rule(f"mamba.{name}_b.**", f"mixer.directions.1.{name}.**") for name in ("conv1d", "x_proj", "dt_proj")),
    Rule("mamba.A_log", "mixer.directions.0.A_log"),
    Rule("mamba.D", "mixer.directions.0.D"),
    Rule("mamba.A_b_log", "mixer.directions.1.A_log"),
    Rule("mamba.D_b", "mixer.directions.1.D"),
)

BLOCKS: Table = MAMBA
