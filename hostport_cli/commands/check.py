"""`hostport check`: is the installation whole, and which part is broken?"""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click

from hostport_cli import wording
from hostport_cli.checks.before import judge_before, look_before
from hostport_cli.checks.facts import InstallationFacts
from hostport_cli.checks.findings import Finding, Level
from hostport_cli.checks.judging import judge
from hostport_cli.checks.looking import look
from hostport_cli.exits import Exit
from hostport_cli.kubectl import KubectlError
from hostport_cli.options import NAMESPACE, Command, Duration, asking
from hostport_cli.printing import STYLES, is_terminal, remark, show_data, styled, visible
from hostport_cli.session import Session

WAIT_PACE = 2.0
NARROWEST, WIDEST = 40, 100


@click.command("check", cls=Command)
@click.option(
    "--wait",
    type=Duration(),
    is_flag=False,
    flag_value="5m",
    default="0s",
    help="Repeat until everything holds, for so long at most; without a value for 5m.",
)
@click.option("--probe-hostport", is_flag=True, help="Make a Pod to find out whether the network forwards host ports.")
@click.option("--pre", is_flag=True, help="Look at the cluster before an installation: whether one can be made.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
              help="What to print.")  # fmt: skip
@asking(NAMESPACE)
async def check(
    session: Session,
    wait: float,
    probe_hostport: bool,  # noqa: FBT001 - click passes options by name
    pre: bool,  # noqa: FBT001 - as above
    output: str,
) -> int:
    """Check the installation, and name the part that is broken.

    Looks at the API server, the webhook (with a dry run of a Pod in the namespace of -n) and the allocator; changes
    nothing, save that --probe-hostport makes a Pod and deletes it. Each failure comes with its cause, a remedy and a
    page. The exit status is 1 when anything does not hold. With --pre it looks at a cluster that has no installation
    yet: version, APIs, your rights, and what is known of the platform.
    """
    if pre and probe_hostport:
        raise click.UsageError("--pre makes no Pod: use --probe-hostport when the installation is there")
    namespace = await _namespace(session)
    until = wording.now() + wait
    while True:
        if pre:
            findings = list(judge_before(await look_before(session.kubectl, session.install_namespace)))
        else:
            findings = judge(await look(session, namespace, probes_host_port=probe_hostport))
        failed = [each.check.id for each in findings if each.level is Level.FAILED]
        if not failed or wording.now() + WAIT_PACE > until:
            break
        remark(f"waiting for {', '.join(failed)} ({until - wording.now():.0f} s left)")
        await asyncio.sleep(WAIT_PACE)
    if output == "table":
        click.echo("\n".join(lines(findings, width())))
    else:
        show_data(output, as_data(findings))
    return Exit.FAILED if failed else Exit.OK


async def _namespace(session: Session) -> str:
    """Where the dry run is made; without a cluster it does not matter."""
    try:
        return await session.namespace_of_pod()
    except KubectlError:
        return "default"


def width() -> int:
    """0: lines are not wrapped, since no person reads them here."""
    return max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST)) if is_terminal() else 0


def lines(findings: Sequence[Finding], width: int) -> Iterator[str]:
    """What people read: the findings by group, and their count. `width` 0: no line is wrapped."""
    group = ""
    for finding in findings:
        if finding.check.group != group:
            if group:
                yield ""
            group = finding.check.group
            yield styled(group, "bold")
        yield from _finding_lines(finding, width)
    count = Counter(finding.level for finding in findings)
    yield ""
    parts = [f"{count[Level.FAILED]} failed", _counted(count[Level.WARNING], "warning"), f"{count[Level.OK]} fine"]
    yield styled(", ".join(parts), STYLES["✗" if count[Level.FAILED] else "✓"])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _finding_lines(finding: Finding, width: int) -> Iterator[str]:
    mark = finding.level.value
    detail = f" ({finding.detail})" if finding.detail else ""
    yield f"{styled(mark, STYLES[mark])} {finding.check.holds}{visible(detail)}"
    if finding.level is Level.OK:
        return
    for word, text in (("cause", finding.cause), ("fix", finding.fix), ("see", finding.check.link)):
        line = f"    {f'{word}:':<7}{visible(text)}"
        hanging = " " * 11
        yield from textwrap.wrap(line, width, subsequent_indent=hanging, break_on_hyphens=False) if width else [line]


def as_data(findings: Sequence[Finding]) -> dict[str, Any]:
    """What programs read: the worst result, and every finding with its id."""
    levels = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILED: "failed"}
    worst = max((list(levels).index(each.level) for each in findings), default=0)
    return {
        "result": list(levels.values())[worst],
        "checks": [
            {
                "id": each.check.id,
                "group": each.check.group,
                "result": levels[each.level],
                "holds": each.check.holds,
                "detail": each.detail,
                **({} if each.level is Level.OK else {"cause": each.cause, "fix": each.fix, "link": each.check.link}),
            }
            for each in findings
        ],
    }


__all__ = ["InstallationFacts", "check"]
