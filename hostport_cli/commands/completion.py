"""`hostport completion`, and what kubectl asks for the completion of its plug-in."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from hostport_cli.options import Command

VARIABLE = "_HOSTPORT_COMPLETE"
NO_FILES = ":4"  # what kubectl's shell code understands as "nothing else, no file names"


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion code of SHELL.

    \b
    bash:  source <(hostport completion bash)
    zsh:   source <(hostport completion zsh)
    fish:  hostport completion fish | source

    For `kubectl hostport` nothing is to be done: kubectl asks `kubectl_complete-hostport`, which is
    installed beside it.
    """  # noqa: D301 - click keeps the lines after its mark
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(kind(_root(), {}, "hostport", VARIABLE).source())


def _root() -> click.Command:
    return click.get_current_context().find_root().command


def complete(command: click.Command, words: list[str]) -> list[str]:
    """What may follow, in the form that kubectl wants: a word, a tab and its help on each line, then a directive."""
    *before, begun = words or [""]
    found = ShellComplete(command, {}, "kubectl hostport", VARIABLE).get_completions(before, begun)
    return [*(_line(item) for item in found if item.type == "plain"), NO_FILES]


def _line(item: CompletionItem) -> str:
    return f"{item.value}\t{item.help}" if item.help else str(item.value)


def for_kubectl() -> None:
    """The program `kubectl_complete-hostport`."""
    from hostport_cli.__main__ import cli  # noqa: PLC0415 - the group imports this module

    os.environ.pop(VARIABLE, None)
    click.echo("\n".join(complete(cli, sys.argv[1:])))
