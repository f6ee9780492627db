"""Tells what a model costs on a frame: same as ``visionrnn analyze-model``. Runs from a checkout without installation."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("visionrnn") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from visionrnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["analyze-model", *sys.argv[1:]]))
