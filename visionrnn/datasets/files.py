"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", sync: bool = True) -> Iterator[IO[Any]]:
    """Opens a temporary file beside ``path``; when the block ends well it is synced to disk and renamed to ``path``.

    A process killed at any moment leaves the old file or the new one, never half of it. ``mode`` is "wb" or "w" (UTF-8, "\\n").
    ``sync=False`` leaves the writing to the system, for many small files that are verified when they are read again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600; prepared data is for everyone who may read the folder
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
