"""How `hostport` and `kubectl hostport` start: what they need beside the library is an extra, and may be missing.

Rule: whoever installed the library alone is told in one line which extra to install, and sees no traceback. A module of
our own that cannot be imported is a fault of ours, and stays one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NoReturn

COMMAND_LINE = "hostport_cli.__main__"
COMPLETION = "hostport_cli.commands.completion"
Program = Callable[[], object]
OURS = ("allocator", "hostport", "hostport_cli", "shim")

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130
"""As `hostport_cli.exits` has them, which needs the extra itself."""


def command_line() -> object:
    """Runs `hostport`. Returns its exit code."""
    return _run_function(COMMAND_LINE, "main")


def completion() -> object:
    """Runs what kubectl asks for completions."""
    return _run_function(COMPLETION, "for_kubectl")


def _run_function(module: str, function: str) -> object:
    try:
        with _quiet_grpc():
            run = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OURS:
            raise
        _missing("cli", package)
    except KeyboardInterrupt:  # to import everything takes half a second
        return EXIT_INTERRUPTED
    return run()


@contextlib.contextmanager
def _quiet_grpc() -> Iterator[None]:
    """gRPC that is imported meanwhile logs nothing, unless somebody wants it to: its errors are told in our words."""
    variable = "GRPC_VERBOSITY"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = "NONE"
    try:
        yield
    finally:
        del os.environ[variable]


def _missing(extra: str, package: str) -> NoReturn:
    sys.stderr.write(
        f"hostport: the package {package} is not installed, which the command line needs and the library does not: "
        f'pip install "hostport-operator[{extra}]"\n'
    )
    raise SystemExit(EXIT_USAGE)
