"""The console script ``visionrnn``: one subcommand per module beside this file. Only the chosen module is imported.

A subcommand is a module with a docstring (its first line is the help text), ``add_arguments(parser)`` and ``run(args)``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from visionrnn import __version__
from visionrnn.errors import CheckpointError, DataError, MissingPackageError

COMMANDS = ("train", "test", "detect", "create-data", "convert-checkpoint", "analyze-model", "visualize", "doctor")
USER_ERRORS = (DataError, CheckpointError, MissingPackageError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code: 0 for success, 2 for an error the user can act on.

    Such an error (``visionrnn.errors``) is printed as one line; ``--debug`` or ``VISIONRNN_DEBUG=1`` prints the traceback too.
    """
    # before torch starts: threads that spin for long would take the loader workers' cores, threads that never spin are slow to start
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    overview = _overview_parser()
    if not arguments or arguments[0].startswith("-"):
        overview.parse_args(arguments)
        overview.print_help()
        return 2 if not arguments else 0
    command = arguments[0]
    if command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        overview.error(f"unknown command {command!r}; {hint}choose one of: {', '.join(COMMANDS)}")
    module = importlib.import_module(f"visionrnn.cli.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"visionrnn {command}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="print the whole traceback when something fails")
    args = parser.parse_args(arguments[1:])
    try:
        return module.run(args) or 0
    except USER_ERRORS as error:
        if args.debug or os.environ.get("VISIONRNN_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _overview_parser() -> argparse.ArgumentParser:
    """The parser behind ``visionrnn --help``: it lists the subcommands without importing them."""
    lines = [f"  {command:<18} {_first_line(command)}" for command in COMMANDS]
    parser = argparse.ArgumentParser(
        prog="visionrnn",
        usage="visionrnn COMMAND [options]",
        description="Linear-RNN backbones for 3D perception and vision.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n'visionrnn COMMAND --help' tells the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"visionrnn {__version__}")
    return parser


def _first_line(command: str) -> str:
    """First line of a subcommand's docstring, read from its source so that nothing is imported."""
    path = Path(__file__).with_name(f"{command.replace('-', '_')}.py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return docstring.splitlines()[0] if docstring else ""
