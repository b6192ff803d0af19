"""The last release: its commit, and its files beside those of today."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from testing.documented import ROOT


def released_commit() -> str:
    """The newest tag; without tags the commit that froze the newest contract. Empty where git does not know either."""
    if _git("rev-parse", "--is-shallow-repository") != "false":
        return ""  # the oldest commit of a shallow clone seems to have made everything
    return _git("describe", "--tags", "--match=v*", "--abbrev=0") or _git(
        "log", "-1", "--diff-filter=A", "--format=%H", "--", "proto/released"
    )


def extract(commit: str, folder: Path, *names: str) -> Path:
    """Writes these files and folders of a commit into the folder, and returns it."""
    packed = subprocess.run(["git", "archive", commit, "--", *names], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> str:
    """What git says; nothing where it fails, since a tree without git is no fault."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
