"""What both programs set of their process: how seldom garbage is looked for, and how many files may be open.

Almost all that we make ends with its last reference. By Python's own pace a look for cycles goes through the newest 700
objects, and now and then through all that there are: modules, classes and the first view of the cluster. That takes 20
to 40 ms, in which nobody is answered. So the interpreter looks seldom, and never in what a program is made of.
"""

from __future__ import annotations

import gc
import resource

STARTING = 100_000
SERVING = 5_000
"""How many objects more than there were are made until the newest are looked through: one or two milliseconds."""

MOST_FILES = 65_536
"""Open files, and so connections."""


def collect_seldom() -> None:
    """Called first: what is made from now on stays, nearly all of it."""
    gc.set_threshold(STARTING)


def freeze() -> None:
    """Called once, before serving: what there is stays as long as the program does, what is garbage by now as well."""
    gc.freeze()
    gc.set_threshold(SERVING)


def raise_file_limit() -> None:
    """Takes what the system allows, up to a bound. Containers may start with 1,024, which idle connections use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
