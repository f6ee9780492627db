"""A progress bar in one line: rewritten in place on a terminal, a line each tenth elsewhere (log files, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, label: str, show: bool = True, file: TextIO | None = None) -> Iterator[T]:
    """Yields ``items``, showing on ``file`` (standard error) how many of ``total`` are done and about how long the rest takes."""
    out = file if file is not None else sys.stderr
    if not show or total <= 0:
        yield from items
        return
    terminal = out.isatty()
    start, shown = time.monotonic(), -1.0
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        due = now - shown > 0.2 if terminal else done * 10 // total > (done - 1) * 10 // total
        if due or done == total:
            shown = now
            left = (now - start) / done * (total - done)
            bar = "#" * (20 * done // total)
            text = f"{label} [{bar:<20}] {done}/{total}, " + (f"{left:.0f} s left" if done < total else f"{now - start:.1f} s")
            out.write(f"\r{text:<79}" if terminal else text + "\n")
            out.flush()
    if terminal:
        out.write("\n")
        out.flush()
