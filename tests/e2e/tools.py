"""Programs of others that tests run beside the control plane, found on $PATH or built once with Go.

Each has a folder of its own in build/, whose go.mod says the version: `tool PACKAGE`. Where there is a main.go, it is
built, and has the version of the module that is called as it is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from e2e.binaries import BUILD, CACHE, Build, alone, go_build


@cache
def tool(name: str) -> Path:
    """The program; the test that asks is skipped where it is absent and cannot be built."""
    if found := shutil.which(name):
        return Path(found)
    package, version = _wanted(name)
    path = CACHE.parent / "tools" / f"{name}-{version}"
    if path.exists():
        return path
    if shutil.which("go") is None:
        pytest.skip(f"{name} is not on $PATH, and without Go it cannot be built")
    with alone(path.parent):
        unfinished = path.with_name(f"unfinished-{name}")
        go_build(Build(name, version, (package,), output=unfinished.name), unfinished.parent)
        unfinished.rename(path)
    return path


def _wanted(name: str) -> tuple[str, str]:
    text = (BUILD / name / "go.mod").read_text(encoding="utf-8")
    if (BUILD / name / "main.go").exists():
        [version] = re.findall(rf"^\s*\S+/{name} (v\S+)", text, re.MULTILINE)
        return ".", version
    [package] = re.findall(r"^tool (\S+)$", text, re.MULTILINE)
    versions = dict(re.findall(r"^(?:require )?\s*(\S+) (v\S+)", text, re.MULTILINE))
    [version] = [version for module, version in versions.items() if package.startswith(f"{module}/")]
    return package, version


def module_folder(name: str, module: str) -> Path:
    """Where Go keeps a module that a program was built of; the test that asks is skipped without Go."""
    if shutil.which("go") is None:
        pytest.skip(f"without Go the files of {module} cannot be found")
    listed = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", module], cwd=BUILD / name, capture_output=True, text=True, check=True
    )
    return Path(listed.stdout.strip())
