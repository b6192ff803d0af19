"""Runs a program with a fault in one of its background loops.

    python planted.py PROGRAM MODULE:CLASS.METHOD FLAGS...

The method, which is asynchronous, raises when it is called.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def plant(where: str) -> None:
    module, _, path = where.partition(":")
    owner_name, _, method = path.partition(".")
    owner: Any = getattr(importlib.import_module(module), owner_name)

    async def fails(*_: object, **__: object) -> None:
        raise ArithmeticError("planted")

    setattr(owner, method, fails)


if __name__ == "__main__":
    program, where, *flags = sys.argv[1:]
    plant(where)
    sys.exit(importlib.import_module(f"{program}.__main__").main(["serve", *flags]))
