"""What the Dockerfiles make: small, locked, nobody's root, and at work on a root that nothing can be written to."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme
from pythons import SUITES

from images import building
from images.building import CHECKOUT
from images.container import Container
from testing.documented import documented, typed_by

NOBODY = 65532
REVIEW = CHECKOUT / "tests" / "testdata" / "admission" / "statefulset-pod-1.json"


@pytest.fixture(params=["allocator", "shim", "agent"])
def image(request: pytest.FixtureRequest) -> Container:
    found: Container = request.getfixturevalue(request.param)
    return found


def locked(program: str) -> set[str]:
    """Name and version of what the lock file gives to Linux, as the folders of pip are called."""
    text = (CHECKOUT / "requirements" / f"{program}.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==([^\s;\\]+)(?: ; (.*))?", text, re.MULTILINE)
    return {f"{name.replace('-', '_').lower()}-{version}" for name, version, marker in pins if "win32" not in marker}


def installed(image: Container) -> set[str]:
    return {found.name.removesuffix(".dist-info").lower() for found in (image.root / "opt/lib").glob("*.dist-info")}


def importable(image: Container, *modules: str) -> list[str]:
    """Those of the modules that the image's Python finds."""
    look = "import sys, importlib.util as u; print([m for m in sys.argv[1:] if u.find_spec(m)])"
    done = image.run("python3", "-c", look, *modules)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.replace("'", '"'))
    return found


def test_the_user_is_a_number_that_is_nobody(image: Container) -> None:
    look = "import os; print(os.getuid(), os.getgid(), bool(os.statvfs('/').f_flag & os.ST_RDONLY))"

    assert image.config["User"] == f"{NOBODY}:{NOBODY}"
    assert image.run("python3", "-c", look).stdout.split() == [str(NOBODY), str(NOBODY), "True"]


def test_the_base_has_the_python_that_the_dockerfiles_name(image: Container) -> None:
    """Where Debian's mirror has it: tests/images/building.py says where not."""
    wanted = building.wanted_python()
    if not building.base_image().endswith(SUITES[wanted]):
        pytest.skip(f"Python {wanted} cannot be had here")

    assert image.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip() == wanted


def test_the_documented_commands_push_what_the_documented_command_has_built(
    images: building.Images, tmp_path: Path
) -> None:
    """By buildah, which the page names beside Docker, into a folder: no registry is here."""
    pushed = [command.text.removeprefix("docker push ") for command in typed_by("tests/images")]
    img = next(
        match[1]
        for each in documented("make images")
        if (match := re.search(r"IMG=(\S+)", each.text)) and each.page == "docs/install.md"
    )

    assert [building.build(img).allocator, building.build(img).shim, building.build(img).agent] == pushed
    for number, name in enumerate(pushed):
        building.run(["buildah", "push", "--quiet", name, f"oci:{tmp_path}/{number}"])


def test_nothing_is_installed_but_what_is_locked(image: Container, request: pytest.FixtureRequest) -> None:
    assert installed(image) == locked(request.node.callspec.params["image"])


def test_the_bill_of_materials_tells_what_is_installed(image: Container, request: pytest.FixtureRequest) -> None:
    program = request.node.callspec.params["image"]
    subprocess.run(["make", "-s", "-C", str(CHECKOUT), "sbom"], check=True, timeout=300)
    bill = json.loads((CHECKOUT / "build" / "sbom" / f"{program}.cdx.json").read_text(encoding="utf-8"))
    told = {f"{each['name'].replace('-', '_').lower()}-{each['version']}" for each in bill["components"]}

    assert bill["bomFormat"] == "CycloneDX"
    assert installed(image) == told


def test_there_is_nothing_left_to_install_or_build_with(image: Container) -> None:
    assert importable(image, "pip", "setuptools", "wheel", "ensurepip", "json") == ["json"]
    tools = [name for name in ("pip", "pip3", "gcc", "cc", "make", "git", "curl") if _on_path(image, name)]
    assert tools == []


def _on_path(image: Container, name: str) -> bool:
    return any((image.root / folder / name).exists() for folder in ("usr/local/bin", "usr/bin", "bin"))


def test_each_holds_its_own_program_and_the_shim_no_client_of_the_api_server(
    allocator: Container, shim: Container
) -> None:
    assert importable(shim, "allocator", "shim", "hostport", "kubernetes", "cryptography", "yaml") == [
        "shim",
        "hostport",
    ]
    assert importable(allocator, "allocator", "shim", "hostport", "kubernetes") == [
        "allocator",
        "hostport",
        "kubernetes",
    ]


def test_our_files_are_compiled_and_belong_to_root(image: Container) -> None:
    ours = list((image.root / "opt/lib/hostport").rglob("*.py"))
    assert ours
    assert [file for file in ours if not list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"))] == []
    assert {file.stat().st_uid for file in ours} == {0}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return numbers


def test_the_agent_holds_nothing_but_itself_and_what_it_tells_by(agent: Container) -> None:
    assert importable(agent, "allocator", "shim", "agent", "hostport", "kubernetes", "tornado", "grpc", "h2") == [
        "agent",
        "hostport",
        "h2",
    ]
    assert agent.run("sh", "-c", "find /etc/passwd -mmin +0").stdout.split() == ["/etc/passwd"]  # its probe's tools


def test_together_they_admit_a_pod(allocator: Container, shim: Container, tmp_path: Path) -> None:
    grpc, allocator_http, webhook, shim_http = free_ports(4)
    journal, tls = tmp_path / "journal", tmp_path / "tls"
    for folder in (journal, tls):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    authority = trustme.CA()
    write_pair(authority.issue_cert("127.0.0.1"), tls)
    tls_flags = ("--tls-cert=/etc/hostport/tls/tls.crt", "--tls-key=/etc/hostport/tls/tls.key")

    with (
        allocator.serving(
            allocator_http,
            f"--listen=127.0.0.1:{grpc}",
            f"--http=127.0.0.1:{allocator_http}",
            "--cluster=none",
            "--journal=sqlite:/var/lib/hostport/journal.db",
            mounts={journal: "/var/lib/hostport"},
        ) as allocator_said,
        shim.serving(
            shim_http,
            f"--listen=127.0.0.1:{webhook}",
            f"--http=127.0.0.1:{shim_http}",
            f"--allocator=127.0.0.1:{grpc}",
            *tls_flags,
            mounts={tls: "/etc/hostport/tls"},
        ) as shim_said,
    ):
        response = ask(authority, webhook, json.loads(REVIEW.read_text(encoding="utf-8")))

    assert response["allowed"] is True
    assert {"op": "add", "path": "/spec/hostNetwork", "value": True} in json.loads(base64.b64decode(response["patch"]))
    assert (journal / "journal.db").stat().st_uid == NOBODY
    assert [line for line in (*allocator_said, *shim_said) if "Traceback" in line] == []


def write_pair(pair: trustme.LeafCert, folder: Path) -> None:
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    (folder / "tls.key").write_bytes(pair.private_key_pem.bytes())
    os.chown(folder / "tls.key", NOBODY, NOBODY)


def ask(authority: trustme.CA, port: int, review: Any) -> Any:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/mutate?timeout=5s",
        json.dumps(review).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, context=trusting, timeout=10) as answer:
        return json.load(answer)["response"]
