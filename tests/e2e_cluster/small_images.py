"""The images that every node needs and nobody can pull here: `pause`, and the busybox of the examples.

Both are the distribution's static busybox. As `pause` it sleeps.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from images.building import run

NAMES = {"pause": "localhost/pause:1", "busybox": "docker.io/library/busybox:1.37"}

DOCKERFILES = {
    "pause": """\
FROM scratch
COPY busybox /busybox
ENTRYPOINT ["/busybox", "sleep", "2147483647"]
""",
    "busybox": """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN ["/bin/busybox", "mkdir", "/tmp"]
CMD ["sh"]
""",
}


def small_images(folder: Path) -> list[Path]:
    """Archives of both, in the folder."""
    return [_archive(folder, each) for each in NAMES]


def _archive(folder: Path, which: str) -> Path:
    archive = folder / f"{which}.tar"
    with tempfile.TemporaryDirectory() as context:
        shutil.copy(shutil.which("busybox") or "", Path(context) / "busybox")
        (Path(context) / "Dockerfile").write_text(DOCKERFILES[which], encoding="utf-8")
        run(["buildah", "build", "-q", "--pull-never", "-t", NAMES[which], context])
    run(["buildah", "push", "-q", NAMES[which], f"docker-archive:{archive}:{NAMES[which]}"])
    return archive
