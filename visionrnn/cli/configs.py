"""Finds configs: by path, or by name among those that come with the package (``visionrnn.configs``, in a checkout ``configs/``)."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from visionrnn.errors import DataError

CONFIG_DIR = (Path(__file__).parents[1] / "configs").resolve()


def list_configs() -> list[str]:
    """Names of the configs that come with the package, as ``folder/name`` without ``.py``, sorted; bases are left out."""
    files = (path.relative_to(CONFIG_DIR) for path in CONFIG_DIR.rglob("*.py"))
    return sorted(path.with_suffix("").as_posix() for path in files if len(path.parts) > 1 and not path.parts[0].startswith("_"))


def find_config(name_or_path: str | Path) -> Path:
    """The file of a config given as a path, or as ``name`` or ``folder/name`` with or without ``.py`` (``configs/`` before it is allowed).

    A file that exists wins over a name. Raises DataError, with the closest names, when there is neither.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.resolve()
    wanted = path.as_posix().removesuffix(".py").removeprefix("./").removeprefix("configs/")
    names = list_configs()
    matches = [name for name in names if wanted in (name, name.rpartition("/")[2])]
    if len(matches) == 1:
        return CONFIG_DIR / f"{matches[0]}.py"
    if matches:
        raise DataError(f"config {str(name_or_path)!r}: several configs have this name; give the folder too: {', '.join(matches)}")
    short_names = {name.rpartition("/")[2]: name for name in names}
    close = get_close_matches(wanted.rpartition("/")[2], short_names, n=3, cutoff=0.4)
    hint = f"; close names: {', '.join(close)}" if close else f"; known names: {', '.join(short_names) or 'none'}"
    raise DataError(f"config {str(name_or_path)!r}: there is no such file, and no config of this name comes with visionrnn{hint}")
