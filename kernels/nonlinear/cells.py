"""What a cell is made of: how many inputs, recurrent matrices, biases and states it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Counts of gates in x, R and bias, and the names of the states, the output y first."""

    inputs: int
    matrices: int
    biases: int
    states: tuple[str, ...]


CELLS = {
    "elman": Cell(1, 1, 1, ("y",)),
    "gru": Cell(3, 3, 4, ("y",)),
    "lstm": Cell(4, 4, 4, ("y", "c")),
    "slstm": Cell(4, 4, 4, ("y", "c", "n", "m")),
}
