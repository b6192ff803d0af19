"""The options that commands share, and the step from click to asyncio."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hostport.credentials import Credentials
from hostport.flags import duration
from hostport_cli.kubectl import Kubectl
from hostport_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """Seconds, from `300ms`, `5s` or `1m30s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. Fails as click does."""
        if isinstance(value, float):
            return value
        try:
            return duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


def _option(name: str, *, help: str, **more: Any) -> Callable[[F], F]:  # noqa: A002 - click's word
    variable = "HOSTPORT_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, help=help, envvar=variable, **more)


WHERE: Sequence[Callable[[Any], Any]] = (
    _option("--server", metavar="HOST:PORT", default="", help="The allocator. Without it: that of the cluster."),
    _option("--ca", type=FILE, help="CA file that the allocator's certificate must come from."),
    _option("--cert", type=FILE, help="Certificate file to show to the allocator."),
    _option("--key", type=FILE, help="Its key file."),
    _option("--token-file", type=FILE, help="File with a ServiceAccount token of audience hostport.io."),
    _option(
        "--service-account",
        metavar="[NS/]NAME",
        default="",
        help="Ask with a token of it, made by kubectl. In a cluster, without any other identity: hostport-cli.",
    ),
    _option("--server-name", metavar="NAME", default="", help="Name that the allocator's certificate must have."),
    _option("--timeout", type=Duration(), default="5s", show_default=True, help="How long to wait for an answer."),
    _option(
        "--install-namespace",
        metavar="NS",
        default="hostport-system",
        show_default=True,
        help="Where the operator is installed.",
    ),
    _option("--context", metavar="NAME", default="", help="Context of the kubeconfig, as for kubectl."),
    _option(
        "--kubeconfig",
        type=click.Path(dir_okay=False, exists=True),
        metavar="FILE",
        help="The kubeconfig, as for kubectl.",
    ),
)
SHARED = frozenset(
    [
        "server",
        "ca",
        "cert",
        "key",
        "token_file",
        "service_account",
        "server_name",
        "timeout",
        "install_namespace",
        "context",
        "kubeconfig",
    ]
)
NAMESPACE: Sequence[Callable[[Any], Any]] = (
    click.option("-n", "--namespace", metavar="NS", default="", help="Namespace. Without it: that of the context."),
)
NAMESPACES: Sequence[Callable[[Any], Any]] = (
    *NAMESPACE,
    click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces."),
)
EXCLUSIVE = ("namespace", "all_namespaces")
"""Of these two one is given at most."""

Body = Callable[..., Coroutine[Any, Any, int | None]]


class Command(click.Command):
    """Its help lists the options that say whom to ask apart from its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes two sections: the options of this command, and those that all share."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (shared if param.name in SHARED else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        if shared:
            with formatter.section("Whom to ask (also HOSTPORT_<NAME> in the environment)"):
                formatter.write_dl(shared)


def asking(*more: Sequence[Callable[[Any], Any]]) -> Callable[[Body], Callable[..., int]]:
    """Makes a coroutine that takes a Session a command body with the options that a Session needs."""

    def decorate(body: Body) -> Callable[..., int]:
        @functools.wraps(body)
        def run(**options: Any) -> int:
            options = _with_those_before_the_verb(options)
            session = _session(options)
            return finish(body(session, **options)) or 0

        made: Any = run
        for option in reversed([*(each for group in more for each in group), *WHERE]):
            made = option(made)
        return made  # type: ignore[no-any-return]

    return decorate


def keep_for_the_command(context: click.Context, options: dict[str, Any]) -> None:
    """Of the options before the verb those that were typed, for `asking` to take."""
    context.obj = {name: value for name, value in options.items() if _is_typed(context, name)}


def _with_those_before_the_verb(options: dict[str, Any]) -> dict[str, Any]:
    """What stands after the verb wins over what stands before it, and that over the environment.

    Raises:
        click.UsageError: all namespaces are meant, and the command is about one.

    """
    context = click.get_current_context()
    before: dict[str, Any] = context.obj or {}
    if any(_is_typed(context, name) for name in EXCLUSIVE):
        before = {name: value for name, value in before.items() if name not in EXCLUSIVE}
    if before.get("all_namespaces") and "namespace" in options and "all_namespaces" not in options:
        raise click.UsageError(
            f"-A makes no sense for `{context.info_name}`, which is about one namespace: name it with -n"
        )
    taken = {name: value for name, value in before.items() if name in options and not _is_typed(context, name)}
    return options | taken


def _is_typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def finish(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Runs a command in an event loop of its own. Tests put it into theirs: gRPC knows one loop in a process."""
    return asyncio.run(_until_told(work))


async def _until_told(work: Coroutine[Any, Any, int | None]) -> int | None:
    """SIGTERM, and SIGHUP but for nohup, end the work as Ctrl-C does: it is cancelled, and may clean up.

    An exception that a handler raises might be lost anywhere.
    """
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def _session(options: dict[str, Any]) -> Session:
    """Takes the shared options out of all of them.

    Raises:
        click.UsageError: they do not go together.

    """
    take = options.pop
    cert, key = take("cert"), take("key")
    if bool(cert) != bool(key):
        raise click.UsageError("--cert and --key go together")
    if options["timeout"] <= 0:
        raise click.UsageError("--timeout must be more than 0, such as 5s")
    is_everywhere, namespace = take("all_namespaces", False), take("namespace", "")
    if is_everywhere and namespace:
        raise click.UsageError("-n and -A exclude each other")
    return Session(
        server=take("server"),
        server_name=take("server_name"),
        credentials=Credentials(ca=take("ca"), cert=cert, key=key, token_file=take("token_file")),
        service_account=take("service_account"),
        install_namespace=take("install_namespace"),
        kubectl=Kubectl(context=take("context"), kubeconfig=take("kubeconfig") or ""),
        namespace=None if is_everywhere else namespace,
        timeout=take("timeout"),
    )
