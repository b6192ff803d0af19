"""A program of an image as a kubelet would start it: on a read-only root, as the image's user, with its environment.

There is no container engine here, and none is needed: a mount namespace of its own, a read-only bind mount of the image's
tree, and chroot. The network is the machine's, so that a test reaches the program on loopback.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.building import run

SETUP = """
set -e
root=$1; user=$2; mounts=$3; shift 3
mount --bind "$root" "$root"
for each in $mounts; do
  inside=$root${each#*:}; mkdir -p "$inside"; mount --bind "${each%%:*}" "$inside"
done
mount -o remount,bind,ro "$root"
exec /usr/sbin/chroot --userspec="$user" "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Container:
    """An image's tree, and how its programs are started."""

    root: Path
    config: Mapping[str, Any]

    @property
    def environ(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def argv(self, *command: str, mounts: Mapping[Path, str] | None = None) -> list[str]:
        """What runs a command in it. It keeps its pid, so that a signal reaches the program."""
        shared = " ".join(f"{source}:{inside}" for source, inside in {Path("/proc"): "/proc", **(mounts or {})}.items())
        return ["unshare", "--mount", "sh", "-c", SETUP, "sh", str(self.root), self.config["User"], shared, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*command), capture_output=True, text=True, timeout=60, check=False, env=self.environ
        )

    @contextlib.contextmanager
    def serving(self, http: int, *flags: str, mounts: Mapping[Path, str] | None = None) -> Iterator[list[str]]:
        """Starts the image's own program with flags, yields once it is ready, and holds it to a clean end.

        Yields the lines that it logged, which are there when the block has ended.
        """
        program = self.argv(*self.config["Entrypoint"], *self.config["Cmd"], *flags, mounts=mounts)
        process = subprocess.Popen(
            program, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines: list[str] = []
        try:
            _wait_ready(process, http)
            yield lines
        finally:
            process.send_signal(signal.SIGTERM)
            lines += (process.communicate(timeout=40)[0] or "").splitlines()
        assert process.returncode == 0, lines


def _wait_ready(process: subprocess.Popen[str], http: int) -> None:
    deadline = time.monotonic() + 30
    while not _is_ready(http):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "not ready after 30 s"
        time.sleep(0.1)


def _is_ready(http: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def container(image: str) -> Iterator[Container]:
    """The image's tree, mounted as long as the block lasts."""
    config = json.loads(run(["buildah", "inspect", "--type", "image", image]))["OCIv1"]["config"]
    name = run(["buildah", "from", "--pull-never", image]).strip()
    try:
        yield Container(Path(run(["buildah", "mount", name]).strip()), config)
    finally:
        run(["buildah", "rm", name])
