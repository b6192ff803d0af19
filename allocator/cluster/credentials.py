"""How the API server is reached: the `kubernetes` package's configuration, and how its credentials are kept fresh.

The file that is named comes first, then the cluster that we run in, then kubectl's files. An exec plug-in that said how
long its credential lives is asked again by the package itself, shortly before.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError


class ClusterConfigError(RuntimeError):
    """The operator's fault: there is no usable kubeconfig, and we do not run in a cluster."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration. `renew`: how to keep it fresh, where reading it again would run an exec plug-in each time."""

    configuration: Configuration
    renew: Callable[[], Awaitable[None]] | None = None


Load = Callable[[], Awaitable[Loaded]]


def loader(kubeconfig: str, environ: Mapping[str, str] = os.environ) -> Load:
    """Where the configuration comes from: the file that is named, else the cluster that we run in, else kubectl's.

    What it returns raises ClusterConfigError when there is nothing usable.
    """

    async def load() -> Loaded:
        configuration = Configuration()
        try:
            if not kubeconfig and environ.get("KUBERNETES_SERVICE_HOST"):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
                return Loaded(configuration)  # its hook rereads the token
            path = _existing(kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config")
            kept: Any = await load_kube_config(  # type: ignore[no-untyped-call]
                path, client_configuration=configuration, persist_config=False
            )
        except (ConfigException, OSError, ValueError, TypeError, KeyError, YAMLError) as error:
            where = kubeconfig or "no --kubeconfig, and not in a cluster"
            raise ClusterConfigError(f"no way to reach a cluster is known ({where}): {error}") from error
        if "exec" not in (kept._user or {}):  # noqa: SLF001 - as the package's own refresh_token asks
            return Loaded(configuration)

        async def renew() -> None:
            await kept.load_from_exec_plugin()  # runs it only when the credential is about to end
            if hasattr(kept, "token"):
                configuration.api_key["BearerToken"] = kept.token
            if hasattr(kept, "cert_file"):
                configuration.cert_file, configuration.key_file = kept.cert_file, kept.key_file

        return Loaded(configuration, renew)

    return load


def _existing(paths: str) -> str:
    """One or several paths of files, as in $KUBECONFIG, at least one of which is there."""
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise FileNotFoundError(f"there is no file {paths}")
    return paths
