"""Files that are either whole or absent, and the choice of the checkpoint to resume from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

LAST = "last_checkpoint"


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls ``write(file)`` on a temporary file in the folder of ``path``, syncs it, renames it to ``path`` and syncs the folder.

    A process killed at any moment leaves the old ``path`` or the new one, whole. Raises what ``write`` or the file system raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened; the rename itself is still atomic
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """``torch.save`` through ``write_atomically``."""
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def write_last(work_dir: str | Path, checkpoint: str | Path) -> None:
    """Names ``checkpoint`` in ``work_dir/last_checkpoint``, where ``--resume`` looks."""
    write_atomically(Path(work_dir) / LAST, lambda file: file.write(str(checkpoint).encode()))


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files that killed runs left in ``folder``."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(rf"\.(.+\.pth|{LAST})\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


def resume_candidates(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a work dir to resume from, best first: the one ``last_checkpoint`` names, then epoch_*/iter_* from newest to oldest.

    A name whose folder is gone is looked up beside ``last_checkpoint``, so that a moved work dir still resumes.
    """
    work_dir = Path(work_dir)
    found: list[Path] = []
    last = work_dir / LAST
    if last.is_file():
        named = Path(last.read_text().strip())
        found += [path for path in (named, work_dir / named.name) if path.is_file()][:1]
    numbered = [path for path in work_dir.glob("*.pth") if re.fullmatch(r"(epoch|iter)_\d+\.pth", path.name)]
    newest_first = sorted(numbered, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return found + [path for path in newest_first if path not in found]
