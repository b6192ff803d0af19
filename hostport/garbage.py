"""When the interpreter looks for cycles that nobody refers to: seldom, and never in what a program is made of.

Almost all that we make ends with its last reference. By Python's own pace a look goes through the newest 700 objects,
and now and then through all that there are: modules, classes and the first view of the cluster. That takes 20 to 40 ms,
in which nobody is answered.
"""

from __future__ import annotations

import gc

STARTING = 100_000
SERVING = 5_000
"""How many objects more than there were are made until the newest are looked through: one or two milliseconds."""


def start() -> None:
    """What is made from now on stays, nearly all of it."""
    gc.set_threshold(STARTING)


def serve() -> None:
    """What there is stays as long as the program does. Once: what is garbage by now stays as well."""
    gc.freeze()
    gc.set_threshold(SERVING)
