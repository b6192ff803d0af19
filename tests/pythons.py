"""What a newcomer types, `make run` and `make test`, on several Pythons: python tests/pythons.py 3.11 3.13 3.14

How long each takes is told; `make run` counts until it serves, with the installation where there is none yet.

A Python that is on the PATH is used with a virtual environment of its own in build/pythons. For one that is not, Debian's
own is used, in a tree that debootstrap makes once in .cache/pythons: that needs root, Linux, and both Debian's mirror and
a package index in reach. Where a Python cannot be had, one line says so, and the verb goes on. The exit code is 1 where
the tests failed on any of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import again

CHECKOUT = Path(__file__).resolve().parents[1]
SUITES = {"3.13": "trixie", "3.14": "sid"}
"""Which release of Debian has which Python. That of sid changes some day, so that it is looked at (`python_of`)."""

PACKAGES = "python3,python3-venv,ca-certificates,make,procps"
TOOLS = ("debootstrap", "unshare", "chroot", "git")
AUTHORITIES = Path("etc/ssl/certs/ca-certificates.crt")
INSIDE = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -c "cd /src && $1"'
"""What is mounted ends with the process: the mounts are its own."""

PROBE = "import ensurepip, sqlite3, ssl, sys; print('%d.%d' % sys.version_info[:2])"
REACH = "python3 -m venv /tmp/reach && /tmp/reach/bin/pip -q download --no-deps --dest=/tmp/reach iniconfig"
"""Whether a package index is in reach: whatever else fails in the tree is a fault of ours."""

SERVES = "Serving until Ctrl-C."
"""What `make run` prints when it is ready."""

NEVER_OURS = {"MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV", "TMPDIR"}


def on_path(version: str) -> str | None:
    """The program, where it starts and is of this version: a stub that starts nothing is none."""
    program = shutil.which(f"python{version}")
    if program is None or said([program, "-c", PROBE]) != version:
        return None
    return program


def said(command: Sequence[str]) -> str:
    """What a command prints; nothing where it fails, or does not exist."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def missing(version: str) -> str:
    """Why Debian's Python cannot be used here; empty where it can."""
    if version not in SUITES:
        return "and no release of Debian is known to have it"
    if os.geteuid() != 0:
        return "and only root can make a tree of Debian"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"and {', '.join(absent)} not installed" if absent else ""


def tree(version: str) -> Path:
    """The tree with Debian's Python, made once, with the checkout as it is now in /src.

    Raises:
        subprocess.CalledProcessError: debootstrap failed, and said why.

    """
    root = CHECKOUT / ".cache" / "pythons" / SUITES[version]
    if not (root / "usr/bin/python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        draft = root.with_name(f"{root.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITES[version], str(draft)]
        draft.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        draft.rename(root)  # so that one that was interrupted is not taken for whole
    shutil.copyfile(Path("/") / AUTHORITIES, root / AUTHORITIES)  # this machine may trust one more
    copy_checkout(root / "src")
    return root


def python_of(root: Path) -> str:
    """The version of a tree's own Python, such as 3.14; empty where it has none."""
    program = root / "usr/bin/python3"
    return program.readlink().name.removeprefix("python") if program.is_symlink() else ""


def copy_checkout(source: Path) -> None:
    """What git knows, and what is new and not ignored. The virtual environment stays."""
    source.mkdir(exist_ok=True)
    for old in source.iterdir():
        if old.name != ".venv":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, source / name)


def command(version: str) -> list[str] | None:
    """How to test on this Python; None where it cannot be had, which is told."""
    if program := on_path(version):
        return [sys.executable, __file__, "here", f"PYTHON={program}", f"VENV=build/pythons/{version}"]
    if reason := missing(version):
        sys.stdout.write(f"Python {version}: skipped: no python{version} here, {reason}\n")
        return None
    try:
        root = tree(version)
        if (found := python_of(root)) != version:
            sys.stdout.write(
                f"Python {version}: skipped: Debian's {SUITES[version]} has Python {found or 'none'} now\n"
            )
            return None
        subprocess.run(inside(root, REACH), check=True, capture_output=True, env=environ())
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or b"").decode(errors="replace").strip().rpartition("\n")[2] or "debootstrap failed"
        sys.stdout.write(f"Python {version}: skipped: Debian's cannot be had here: {reason}\n")
        return None
    return inside(root, "python3 tests/pythons.py here")


def inside(root: Path, what: str) -> list[str]:
    """How to run a line of shell in a tree."""
    return ["unshare", "--mount", "--pid", "--fork", "sh", "-c", INSIDE, str(root), what]


def environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in NEVER_OURS} | {"LANG": "C.UTF-8"}


def newcomer(variables: Sequence[str]) -> int:
    """Types both commands in this checkout, and tells how long they took. The exit code is that of the tests.

    `variables` are for make, such as PYTHON=python3.13.
    """
    make, began = ["make", "-C", str(CHECKOUT), *variables], time.monotonic()
    with subprocess.Popen([*make, "run"], stdout=subprocess.PIPE, text=True, start_new_session=True) as serving:
        assert serving.stdout
        served = any(line.startswith(SERVES) for line in serving.stdout)
        took = time.monotonic() - began
        if served:
            os.killpg(serving.pid, signal.SIGINT)
    if not served:
        sys.stderr.write("make run ended by itself\n")
        return 1
    began = time.monotonic()
    passes = again.passes([*make, "test"])
    sys.stdout.write(f"make run served after {took:.0f} s, make test took {time.monotonic() - began:.0f} s\n")
    return 0 if passes else 1


def main() -> int:
    if sys.argv[1:2] == ["here"]:
        return newcomer(sys.argv[2:])
    failed = []
    for version in sys.argv[1:]:
        if run := command(version):
            sys.stdout.write(f"Python {version}:\n")
            sys.stdout.flush()
            if subprocess.run(run, check=False, env=environ()).returncode != 0:
                failed.append(version)
    if failed:
        sys.stderr.write(f"the tests failed on Python {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
