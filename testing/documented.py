"""The commands that README and pages tell people to type: those of blocks of code, and those in the middle of a sentence.

Each is typed by one test (`typist` says which) or stands in UNTYPED with the reason: tests/test_docs.py holds that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "deploy" / "chart" / "hostport-operator" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
NEEDS_A_KUBELET = re.compile(r"port-forward| logs | exec |^helm test|^hostport (?!lease|render|release)")
"""What no control plane without nodes can answer, or what is reached through a port of a Pod."""
PROGRAMS = (
    *("curl ", "grpcurl ", "kubectl ", "helm ", "hostport ", "make ", "pip ", "docker ", "oc ", "gh ", "export "),
    *("python ", "sha256sum ", "cmctl ", ".venv/bin/"),
)
CODE_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
IN_A_SENTENCE = re.compile(r"`([^`]+)`")
MENTION = re.compile(
    r"^(kubectl|helm) [\w-]+(?: --[\w=-]+)?$|^kubectl describe pod$|^hostport \w+$|render( --offline)?$|\.\.\.|…"
)
"""Words in a sentence that name a command, and leave out what it is about."""

UNTYPED = {
    "docker buildx imagetools inspect": "asks the registry of python, and no test may need one",
    "docker save": "k3s is not here; tests/e2e_cluster/linux.py loads images by the same two steps",
    "export KUBECONFIG=/etc/rancher/k3s": "k3s is not here",
    "cmctl renew": "cmctl is not here; tests/cert_manager renews certificates by cert-manager's own controllers",
    "oc adm policy": "an SCC is a kind of OpenShift's own API server",
    "gh attestation verify": "asks GitHub about a release that is published there",
    "grpcurl -cacert": "is typed in a Pod, which has the token; tests/e2e/test_access.py asks with such a token",
    "kubectl delete mutatingwebhookconfiguration hostport-mutating-webhook-configuration": "the Go program's, not ours",
}
"""Beginning of a command → why no test types it as it stands."""


TYPISTS = {
    **dict.fromkeys(("curl", "grpcurl", "hostport"), "tests/e2e"),
    **dict.fromkeys((".venv/bin/hostport", ".venv/bin/python"), "tests/e2e"),
    **dict.fromkeys(("make", "python"), "tests/test_docs.py"),
    **dict.fromkeys(("pip", "sha256sum"), "tests/packages"),
    "docker": "tests/images",
}
"""Program → the tests that type its commands, where nothing of the command decides."""


@dataclass(frozen=True, slots=True)
class DocumentedCommand:
    """One command, as it stands on the page that is named."""

    page: str
    text: str

    @property
    def typed(self) -> str:
        """Without the remark that stands behind it."""
        return self.text.partition("  #")[0].strip()

    @property
    def needs_a_kubelet(self) -> bool:
        return NEEDS_A_KUBELET.search(self.text) is not None

    @property
    def typist(self) -> str:
        """The tests that type it; empty where none does."""
        if self.text.startswith(tuple(UNTYPED)):
            return ""
        program = self.text.split()[0]
        if program in {"kubectl", "helm", "for"}:
            return "tests/e2e_cluster" if self.needs_a_kubelet else "tests/helm"
        if program == "hostport" and self.needs_a_kubelet:
            return "tests/e2e_cluster"
        return TYPISTS.get(program, "")


def commands(text: str) -> list[str]:
    """The commands of a text, those of several lines whole: after a backslash, in an open quote or a substitution; loops, too."""
    found: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        command = line.removeprefix("$ ").strip()
        if re.match(r"for .*; do$", command):
            while not command.endswith("done"):
                command += "\n" + next(lines)
            found.append(command)
        if not command.startswith(PROGRAMS):
            continue
        while command.endswith(("\\", "|")) or command.count("'") % 2 or command.count("$(") > command.count(")"):
            command += "\n" + next(lines)
        found.append(command)
    return found


def documented(*programs: str) -> list[DocumentedCommand]:
    """The commands that begin with one of the words (all, without words), by their pages; of a page, blocks of code first."""
    return [
        DocumentedCommand(page.name if page.parent != ROOT / "docs" else f"docs/{page.name}", command)
        for page in PAGES
        for command in _commands_of(page.read_text(encoding="utf-8"))
        if command.startswith(programs or "")
    ]


def typed_by(tests: str) -> list[DocumentedCommand]:
    """Those that these tests type, each once, blocks of code first."""
    found: dict[str, DocumentedCommand] = {}
    for command in documented():
        if command.typist == tests:
            found.setdefault(command.typed, command)
    return list(found.values())


def _commands_of(text: str) -> Iterator[str]:
    for block in CODE_BLOCK.findall(text):
        yield from commands(block)
    for paragraph in CODE_BLOCK.sub("", text).split("\n\n"):
        for words in IN_A_SENTENCE.findall(paragraph):
            if words.startswith(PROGRAMS) and not MENTION.search(words):
                yield " ".join(words.split())


def modules(page: Path) -> set[str]:
    """What a page names in backticks as a module of ours, with or without its folders."""
    return set(re.findall(r"`((?:\w+/)*\w+\.py)`", CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))))


def paths(page: Path) -> Iterator[str]:
    """What a page names in backticks as a file, module or folder of the checkout, and is not made by a command."""
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    for word in re.findall(r"`([\w.\-]+/[\w.\-/]*)`", text):
        if (ROOT / word.partition("/")[0]).is_dir() and not word.startswith(("build/", "bench/out")):
            yield word
