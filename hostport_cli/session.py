"""Which allocator and which cluster a command talks to, and how it gets there.

The allocator is the one of --server, or that of the cluster: kubectl forwards a port of loopback to its Service then.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from hostport.client.aio import AsyncClient
from hostport.credentials import Credentials
from hostport_cli.exits import CliError, Exit
from hostport_cli.kubectl import Kubectl

SERVICE = "hostport-allocator"
AUDIENCE = "hostport.io"
VIEWER = "hostport-cli"
"""Comes with the installation, and may look at everything; who may make tokens of it decides who does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the command line says of whom to ask. `namespace` empty: not said; None: all of them."""

    server: str
    server_name: str
    credentials: Credentials
    service_account: str
    install_namespace: str
    kubectl: Kubectl
    namespace: str | None
    timeout: float

    async def namespace_or_all(self) -> str:
        """Empty: all. Without -n and -A the context's, or all where an allocator is named that may have no cluster."""
        if self.namespace is None or (self.server and not self.namespace):
            return ""
        return self.namespace or await self.kubectl.namespace()

    async def namespace_of_pod(self) -> str:
        """The one namespace that a name is looked for in. Raises CliError where all are named."""
        if self.namespace is None:
            raise CliError("-A makes no sense for one Pod: name its namespace with -n", Exit.USAGE)
        return self.namespace or await self.kubectl.namespace()

    @contextlib.asynccontextmanager
    async def allocator(self) -> AsyncIterator[AsyncClient]:
        """A client of the allocator.

        Raises:
            CliError: its address or its credentials cannot be used.
            KubectlError: kubectl, which leads to it, cannot.

        """
        async with contextlib.AsyncExitStack() as stack:
            address, name, credentials = self.server, self.server_name, await self._credentials(stack)
            if not address:
                port = "grpc-tokens" if credentials.token or credentials.token_file else "grpc"
                way = self.kubectl.forward(self.install_namespace, f"service/{SERVICE}", port)
                address = await stack.enter_async_context(way)
                name = name or f"{SERVICE}.{self.install_namespace}.svc"
                credentials = await self._trusting(credentials, stack)
            try:
                client = AsyncClient(
                    address,
                    credentials=credentials,
                    server_name=name,
                    timeout=self.timeout,
                    connect_timeout=self.timeout,
                    program="hostport-cli",
                )
            except ValueError as error:
                raise CliError(f"--server: {error}", Exit.USAGE) from error
            except OSError as error:
                message = f"the credentials cannot be used: {error}. Look at --ca, --cert, --key and --token-file"
                raise CliError(message, Exit.USAGE) from error
            yield await stack.enter_async_context(client)

    async def _credentials(self, stack: contextlib.AsyncExitStack) -> Credentials:
        """With a token: of the ServiceAccount that is named, or of the one that may look where nothing is shown."""
        given = self.credentials
        shows_nothing = not (self.server or given.cert or given.token_file)
        account = self.service_account or (VIEWER if shows_nothing else "")
        if not account:
            return given
        tokens = self.kubectl.tokens(account, self.install_namespace, AUDIENCE)
        return replace(given, token=await stack.enter_async_context(tokens))

    async def _trusting(self, credentials: Credentials, stack: contextlib.AsyncExitStack) -> Credentials:
        """With the authority of the installation, which the API server has in the webhook's configuration."""
        if credentials.ca:
            return credentials
        from hostport_cli.cluster import ca_bundle, webhook_configuration  # noqa: PLC0415 - only where it is needed

        bundle = ca_bundle(await webhook_configuration(self.kubectl))
        if not bundle:
            return credentials
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostport-")))
        (folder / "ca.crt").write_bytes(bundle)
        return replace(credentials, ca=folder / "ca.crt")
