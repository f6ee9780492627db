"""Compiles the C++ sources of this folder, once per instruction set, into shared libraries with a plain C interface.

python -m visionrnn.kernels.native [FOLDER]    (default: beside the sources)

Needs g++ or clang++ and nothing else: neither torch nor Python headers.
The libraries use whatever OpenMP runtime the process has loaded already, which is torch's, so there is one pool of threads.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")
X86 = {"avx512": ("-march=x86-64-v4",), "avx2": ("-march=x86-64-v3",), "baseline": ()}
BUILDS: dict[str, tuple[str, ...]] = X86 if platform.machine() in ("x86_64", "AMD64") else {"baseline": ()}


def find_compiler() -> str | None:
    """$CXX, or the first C++ compiler on the path that takes GCC's vector extensions."""
    wanted = os.environ.get("CXX")
    return shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)


def library_path(build: str, folder: Path = HERE) -> Path:
    return folder / f"libvisionrnn_{build}.so"


def build(folder: Path = HERE) -> list[Path]:
    """Compiles all builds side by side into ``folder``. Raises RuntimeError with the compiler's words when it fails or is not there."""
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found: install g++ (Debian: apt install g++) or set CXX")
    sources = sorted(HERE.glob("*.cpp"))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:

        def compile_one(job: tuple[str, Path]) -> None:
            name, source = job
            _run(compiler, *FLAGS, *BUILDS[name], "-c", str(source), "-o", f"{scratch}/{name}-{source.stem}.o")

        list(pool.map(compile_one, [(name, source) for name in BUILDS for source in sources]))
        for name in BUILDS:
            # linked without -fopenmp: the library must not ask for a libgomp of its own
            objects = [f"{scratch}/{name}-{source.stem}.o" for source in sources]
            _run(compiler, "-shared", *objects, "-o", f"{scratch}/{name}.so")
            os.replace(f"{scratch}/{name}.so", library_path(name, folder))
    return [library_path(name, folder) for name in BUILDS]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def main() -> int:
    try:
        for path in build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE):
            print(path)
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
