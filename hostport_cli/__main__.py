"""`hostport`, `kubectl hostport`, `python -m hostport_cli`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hostport.client.errors import HostportError
from hostport_cli.commands.check import check
from hostport_cli.commands.completion import VARIABLE, completion
from hostport_cli.commands.explain import explain_pod
from hostport_cli.commands.leases import lease, release, renew
from hostport_cli.commands.listing import list_allocations, watch
from hostport_cli.commands.node import node, who
from hostport_cli.commands.rendering import render
from hostport_cli.commands.version import version
from hostport_cli.exits import CliError, Exit, exit_of, words
from hostport_cli.options import NAMESPACES, WHERE, keep_for_the_command
from hostport_cli.printing import remark

COMMANDS = (
    check, list_allocations, node, who, explain_pod, render, lease, renew, release, watch, version, completion,
)  # fmt: skip


class CommandGroup(click.Group):
    """Lists commands as people need them, not by the alphabet, and ends quietly when it is told to."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Returns its exit status, or that of a program which Ctrl-C or a closed pipe ended.

        Raises:
            CliError: what it prints cannot be written.

        """
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
        except (KeyboardInterrupt, asyncio.CancelledError):
            return Exit.INTERRUPTED
        except BrokenPipeError:  # `| head` has seen enough
            _drop_the_rest()
            return 128 + signal.SIGPIPE
        except OSError as error:  # as a rule stdout is a file, and the disk is full
            _drop_the_rest()
            raise CliError(f"cannot go on: {error.strerror or error}") from error
        return outcome

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.pass_context
def cli(context: click.Context, /, **before: Any) -> None:
    """See who holds host ports, and why; lease them; find out what is broken.

    Asks the allocator of the cluster that kubectl talks to, or the one of --server. Options that say whom to ask,
    and -n and -A, may stand before the command or after it.
    """
    keep_for_the_command(context, before)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _option in (*WHERE, *NAMESPACES):
    _option(cli)
for _command in COMMANDS:
    cli.add_command(_command)


def main() -> int:
    """The programs `hostport` and `kubectl-hostport`."""
    if sys.stdout is None:  # it was closed before we were started
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without our signs gets their numbers
    is_plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    return run(sys.argv[1:], "kubectl hostport" if is_plugin else "hostport")


def run(arguments: Sequence[str], program: str = "hostport") -> int:
    """The exit status; see `exits`."""
    for each in arguments:
        try:
            each.encode()
        except UnicodeEncodeError:
            return _failed(f"the argument {each!r} is not UTF-8", Exit.USAGE)
    try:
        code = cli.main(list(arguments), prog_name=program, complete_var=VARIABLE, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except click.ClickException as error:
        return _failed(_usage(error), Exit.USAGE)
    except CliError as error:
        return _failed(str(error), error.code)
    except HostportError as error:
        return _failed(words(error), exit_of(error))
    return code if isinstance(code, int) else Exit.OK


def _failed(message: str, code: Exit) -> int:
    remark(f"error: {' '.join(message.split())}")  # one line, whoever wrote the message
    return code


def _drop_the_rest() -> None:
    """Of what is still to be written to stdout: Python tries once more as it ends."""
    with contextlib.suppress(OSError, ValueError):  # in a test it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.BadParameter) and context and error.param and error.param.name:
        source = context.get_parameter_source(error.param.name)
        if source is ParameterSource.ENVIRONMENT:
            error.param_hint = str(error.param.envvar)
    hint = f" (see {context.command_path} --help)" if context else ""
    return f"{error.format_message().rstrip('.')}{hint}"


if __name__ == "__main__":
    sys.exit(main())
