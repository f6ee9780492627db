"""Files that are either whole or absent, and the choice of the checkpoint to resume from."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from visionrnn.datasets.files import atomic_write

LAST = "last_checkpoint"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened; the rename itself is still atomic
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """``torch.save`` to a temporary file that is synced and renamed to ``path``; the folder is synced too.

    A process killed at any moment, or a power cut, leaves the old ``path`` or the new one, whole.
    """
    with atomic_write(path) as file:
        torch.save(checkpoint, file)
    _sync_folder(Path(path).parent)


def write_last(work_dir: str | Path, checkpoint: str | Path) -> None:
    """Names ``checkpoint`` in ``work_dir/last_checkpoint``, where ``--resume`` looks; atomic like the checkpoint."""
    with atomic_write(Path(work_dir) / LAST, "w") as file:
        file.write(str(checkpoint))
    _sync_folder(Path(work_dir))


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files that killed runs left in ``folder``."""
    for path in Path(folder).glob(".*.part"):
        if re.fullmatch(rf"\.(.+\.pth|{LAST})\.\w+\.part", path.name):
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
