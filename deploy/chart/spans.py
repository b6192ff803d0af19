"""Edits to YAML that leave every other character alone, comments among them.

A manifest becomes a Helm template by replacing the text of some values and by putting lines around or behind others.
Nodes are found by a path of keys and indexes, as `spec/template/spec/containers/0/image`; where a path leads nowhere,
Missing names it. Edits are collected and made all at once, so that each sees the text as it was read.

Text of ours writes template actions as `<%` and `%>`, so that braces that stand in a manifest stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml


class Missing(Exception):  # noqa: N818 - reads as what it says
    """A path that leads nowhere."""


@dataclass(frozen=True, slots=True)
class Edit:
    """New text for a span. At one place the lowest rank comes first: what is deeper ends before what is around it."""

    low: int
    high: int
    text: str
    rank: float = 0


@dataclass(slots=True)
class Document:
    """One object of a file, and the edits to it."""

    text: str
    root: yaml.MappingNode
    edits: list[Edit] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.scalar("kind")

    @property
    def name(self) -> str:
        return self.scalar("metadata/name")

    def scalar(self, path: str) -> str:
        return str(self._entry(path)[1].value)

    def has(self, path: str) -> bool:
        try:
            self._entry(path)
        except Missing:
            return False
        return True

    def keys(self, path: str) -> set[str]:
        """Of a mapping; none where there is none."""
        return {str(key.value) for key, _ in self._entry(path)[1].value} if self.has(path) else set()

    def replace(self, path: str, action: str) -> None:
        """Puts text in the place of a value."""
        value = self._entry(path)[1]
        self.edits.append(Edit(value.start_mark.index, self._end(value), action))

    def wrap(self, path: str, block: str, until: str = "") -> None:
        """Keeps an entry, and those behind it up to another, only inside a block, as `if .Values.x`.

        The last one must not end with an alias: that is where its anchor is.
        """
        key, value = self._entry(path)[0], self._entry(until or path)[1]
        self._around(self._line(key.start_mark.index), value, block, key.start_mark.column)

    def wrap_text(self, line: str, block: str) -> None:
        """Keeps the first such line of the object, its end included, only inside a block."""
        low = self.text.find(line, self._head())
        if low < 0:
            raise Missing(f"{self.kind} {self.name} has no line {line.strip()}")
        self.edits += [
            Edit(low, low, f"<%- {block} %>\n"),
            Edit(low + len(line), low + len(line), "<%- end %>\n"),
        ]

    def wrap_all(self, block: str) -> None:
        """Keeps the whole object only inside a block, with the comment above it."""
        self._around(self._head(), self.root, block, 0)

    def append(self, path: str, lines: str, block: str = "") -> None:
        """Puts lines behind the last entry of a list or mapping, indented like its entries, inside a block if given."""
        value = self._collection(path)
        if value.flow_style:
            raise Missing(f"{self.kind} {self.name}: {path} is not in block style")
        last = value.value[-1]
        column = last[0].start_mark.column if isinstance(value, yaml.MappingNode) else value.start_mark.column
        text = "".join(f"{' ' * column}{line}\n" for line in lines.splitlines())
        at = self._next_line(self._end(value))
        self.edits.append(Edit(at, at, f"<%- {block} %>\n{text}<%- end %>\n" if block else text, -column))

    def append_inline(self, path: str, text: str) -> None:
        """Puts text behind the last entry of a list or mapping that is written on one line."""
        value = self._collection(path)
        if not value.flow_style:
            raise Missing(f"{self.kind} {self.name}: {path} is not in flow style")
        at = self._end(value) - 1
        self.edits.append(Edit(at, at, text))

    def is_inline(self, path: str) -> bool:
        return bool(self._collection(path).flow_style)

    def edited(self) -> str:
        """The text of this object with its edits."""
        start, end = self._head(), self._next_line(self._end(self.root))
        text, tail = [], start
        for edit in sorted(self.edits, key=lambda edit: (edit.low, edit.rank)):
            if edit.low < tail:
                raise ValueError(f"{self.kind} {self.name}: two edits of one place, near {edit.text!r}")
            text += [self.text[tail : edit.low], edit.text]
            tail = edit.high
        return "".join([*text, self.text[tail:end]])

    def _entry(self, path: str) -> tuple[yaml.Node, yaml.Node]:
        """The key (for an item of a list the item itself) and the value at a path."""
        key: yaml.Node = self.root
        value: yaml.Node = self.root
        for step in path.split("/"):
            found = _child(value, step)
            if found is None:
                raise Missing(f"{self.kind} {self.name} has no {path}" if path not in _IDENTITY else f"no {path}")
            key, value = found
        return key, value

    def _collection(self, path: str) -> yaml.CollectionNode:
        value = self._entry(path)[1]
        if not isinstance(value, yaml.CollectionNode):
            raise Missing(f"{self.kind} {self.name}: {path} is neither a list nor a mapping")
        return value

    def _end(self, node: yaml.Node) -> int:
        """Where a node's own text ends; a block's mark lies at whatever comes next."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self._end(last[1] if isinstance(node, yaml.MappingNode) else last)
        return node.start_mark.index + len(self.text[node.start_mark.index : node.end_mark.index].rstrip())

    def _line(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _next_line(self, index: int) -> int:
        return self.text.find("\n", index) + 1

    def _head(self) -> int:
        """Where the object begins: behind the line `---` before it, so that comments above it count."""
        before = self.text.rfind("\n---\n", 0, self.root.start_mark.index)
        return 0 if before < 0 else before + len("\n---\n")

    def _around(self, start: int, value: yaml.Node, block: str, column: int) -> None:
        end = self._next_line(self._end(value))
        self.edits += [
            Edit(start, start, f"<%- {block} %>\n", 1),
            Edit(end, end, "<%- end %>\n", -column - 0.5),
        ]


_IDENTITY = {"kind", "metadata/name"}


def _child(node: yaml.Node, step: str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        return node.value[int(step)], node.value[int(step)]
    return None


def documents(text: str) -> Iterator[Document]:
    """The objects of a file."""
    for root in yaml.compose_all(text, yaml.SafeLoader):
        if isinstance(root, yaml.MappingNode):
            yield Document(text, root)


def as_template(text: str) -> str:
    """Makes our actions Helm's; braces that stood in the text are kept from it."""
    return text.replace("{{", '<% "{{" %>').replace("<%", "{{").replace("%>", "}}")
