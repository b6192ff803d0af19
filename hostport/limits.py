"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import resource

MOST_FILES = 65_536


def raise_file_limit() -> None:
    """Takes what the system allows, up to a bound. Containers may start with 1,024, which idle connections use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
