"""docs/cli.md, from the commands themselves: `python -m hostport_cli.manual`. A check keeps them equal."""

from __future__ import annotations

import click

from hostport_cli.__main__ import cli
from hostport_cli.exits import Exit

WIDTH = 80
SECTION = "Whom to ask"

INTRODUCTION = """\
<!-- Rendered by `make docs` from hostport_cli. Do not edit. -->
# Command line

`hostport` shows who holds host ports and why, leases them, and finds out what is broken ([what `hostport check`
looks at](checks.md)). The same program is `kubectl hostport`: kubectl finds `kubectl-hostport` on the PATH.
`pip install '.[cli]'` in a checkout installs it.

## Which allocator it asks

- `--server HOST:PORT` (or `HOSTPORT_SERVER`): that one. `make run` listens on 127.0.0.1:50051, in plain text.
- Else that of the cluster: `kubectl port-forward` leads to the Service `hostport-allocator` as long as the command
  runs. `--context` and `--kubeconfig` choose the cluster as they do for kubectl. The allocator's certificate is checked
  by the authority in the webhook's configuration; `--ca` names another.

Everything about the cluster goes through `kubectl` as a child process, so that contexts, credential plug-ins and
proxies are the user's own.

An allocator in a cluster wants to know who asks ([Security](security.md)). Without further options kubectl makes a
token of the ServiceAccount `hostport-cli` in `hostport-system`, which may look at everything and change nothing:
whoever may create such tokens may look. To lease, show an identity that may: `--service-account NAMESPACE/NAME`,
`--token-file`, or `--cert` and `--key`. Only shims may ask for Pods, so that `hostport render` needs `--offline` with
such an allocator; `kubectl apply --dry-run=server` shows what the webhook would make there.

```
%s
```

A container whose ports the webhook numbered, or a command that was started with a lease, may have variables of the
same names for its ports: a port named `server` is told in `HOSTPORT_SERVER`. An option on the command line wins over
them.

## What it prints

- `-o table` (as kubectl's tables), `wide` (more columns), `json`, `yaml` (the message of the API, as protobuf writes it
  in JSON), `name` (one name or id a line). Only a terminal gets colours and wrapped cells.
- stdout has the answer; remarks and warnings go to stderr, one line each. An error is one line that begins with
  `error:`.

| exit status | meaning |
|---|---|
"""


def render() -> str:
    """docs/cli.md: the options that all commands share, the exit statuses, and the help of each command."""
    helps = {name: help_of(command).partition(f"\n\n{SECTION}") for name, command in cli.commands.items()}
    shared = next(f"{SECTION}{rest}" for _, _, rest in helps.values() if rest)
    lines = [INTRODUCTION % shared + "\n".join(f"| {code.value} | {code.meaning} |" for code in Exit), ""]
    for name, (own, _, _) in helps.items():
        lines += [f"## hostport {name}", "", "```", own, "```", ""]
    return "\n".join(lines)


def help_of(command: click.Command) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    parent = cli.make_context("hostport", [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
    context = click.Context(command, info_name=command.name, parent=parent, **command.context_settings)
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    click.echo(render(), nl=False)
