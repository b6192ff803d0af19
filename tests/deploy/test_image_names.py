"""How `make images` and `make deploy` make three image names out of IMG."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def make(verb: str, img: str) -> subprocess.CompletedProcess[str]:
    """What make would do, without doing it."""
    command = ["make", "-n", verb, f"IMG={img}", "BUILDER=builder", "KUBECTL=kubectl"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)


NAMES = {
    "a tag": ("team/hostport:v1", "team/hostport", "v1"),
    "no tag": ("team/hostport", "team/hostport", "latest"),
    "a registry with a port": ("registry.example:5000/team/hostport:v1", "registry.example:5000/team/hostport", "v1"),
    "a port and no tag": ("registry.example:5000/hostport", "registry.example:5000/hostport", "latest"),
    "a tag that is in the name": ("team/v1/hostport-v1:v1", "team/v1/hostport-v1", "v1"),
}


@pytest.mark.parametrize(("img", "name", "tag"), NAMES.values(), ids=NAMES)
def test_images_and_deploy_agree_on_all_names(img: str, name: str, tag: str) -> None:
    built = make("images", img).stdout
    deployed = make("deploy", img).stdout

    assert re.findall(r"-t (\S+)", built) == [f"{name}-$part:{tag}"]
    assert re.findall(r'newName: (\S+), newTag: "(\S+)"', deployed) == [
        (f"{name}-allocator", tag),
        (f"{name}-shim", tag),
        (f"{name}-agent", tag),
    ]


def test_a_digest_is_refused_with_a_sentence() -> None:
    done = make("images", "team/hostport@sha256:" + "0" * 64)

    assert done.returncode == 2
    assert "has a digest, but names three images: give registry/name:tag" in done.stderr
