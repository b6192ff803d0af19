"""How the API server is reached: where the configuration comes from, and credentials that change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from kubernetes.aio.config import incluster_config

from allocator.cluster.client import ApiClient, ApiError, UnreachableError
from allocator.cluster.credentials import ClusterConfigError, loader
from testing.apiserver import ApiServer, Fail


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def kubeconfig(path: Path, url: str, **user: Any) -> str:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user}],
            }
        ),
        encoding="utf-8",
    )
    return str(path)


async def tokens(server: ApiServer, client: ApiClient, *, requests: int = 1) -> list[str | None]:
    """What the server sees in so many requests."""
    server.tokens_seen.clear()
    for _ in range(requests):
        await client.get("/api/v1/nodes", {"limit": "2"})
    return server.tokens_seen


async def test_a_token_of_a_kubeconfig_is_sent(server: ApiServer, tmp_path: Path) -> None:
    client = ApiClient(loader(kubeconfig(tmp_path / "config", server.url, token="t1")))

    assert await tokens(server, client) == ["Bearer t1"]
    await client.close()


async def test_kubectls_own_variable_names_the_file(server: ApiServer, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", server.url, token="t1")
    client = ApiClient(loader("", {"KUBECONFIG": path}))

    assert await tokens(server, client) == ["Bearer t1"]
    await client.close()


async def test_a_netrc_file_does_not_meet_the_token(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client = ApiClient(loader(kubeconfig(tmp_path / "config", server.url, token="t1")))

    assert await tokens(server, client) == ["Bearer t1"]
    await client.close()


async def test_a_proxy_of_the_environment_is_asked(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    client = ApiClient(loader(kubeconfig(tmp_path / "config", "http://kubernetes.example", token="t1")))

    assert await tokens(server, client) == ["Bearer t1"]
    await client.close()


async def test_a_token_file_is_read_again_each_minute(server: ApiServer, tmp_path: Path) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("t1")
    client = ApiClient(loader(kubeconfig(tmp_path / "config", server.url, tokenFile=str(token))), monotonic=clock)
    seen = await tokens(server, client)
    token.write_text("t2")
    clock.seconds = 59.0
    seen = [*seen, *await tokens(server, client)]
    clock.seconds = 60.0
    seen = [*seen, *await tokens(server, client)]

    assert seen == ["Bearer t1", "Bearer t1", "Bearer t2"]
    await client.close()


async def test_refused_credentials_are_read_again_at_once_and_only_once(server: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    client = ApiClient(loader(kubeconfig(tmp_path / "config", server.url, tokenFile=str(token))), monotonic=Clock())
    await client.get("/api/v1/nodes", {"limit": "2"})
    token.write_text("new")
    server.wants_token = "new"

    assert await tokens(server, client) == ["Bearer old", "Bearer new"]
    server.wants_token = "another"
    with pytest.raises(ApiError, match="401"):
        await client.get("/api/v1/nodes", {"limit": "2"})
    await client.close()


async def test_an_exec_plugin_runs_once_and_again_when_refused(server: ApiServer, tmp_path: Path) -> None:
    runs, clock = tmp_path / "runs", Clock()
    runs.write_text("")
    program = (
        f"import json, pathlib; p = pathlib.Path({str(runs)!r}); p.write_text(p.read_text() + 'x');"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        "'status': {'token': 't' + str(len(p.read_text())), 'expirationTimestamp': '2999-01-01T00:00:00Z'}}))"
    )
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", program]}
    client = ApiClient(loader(kubeconfig(tmp_path / "config", server.url, exec=plugin)), monotonic=clock)
    seen = await tokens(server, client, requests=2)
    clock.seconds = 61.0
    seen = [*seen, *await tokens(server, client)]

    assert seen == ["Bearer t1"] * 3
    server.wants_token = "t2"
    assert await tokens(server, client) == ["Bearer t1", "Bearer t2"]
    await client.close()


async def test_in_a_cluster_the_token_of_the_pod_is_sent(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text("pod")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca"))
    loaded = await loader("", environ)()

    assert loaded.configuration.host == f"https://{host}:{port}"
    assert await loaded.configuration.get_api_key_with_prefix("BearerToken") == "bearer pod"


async def test_new_certificates_mean_new_connections(server: ApiServer, tmp_path: Path) -> None:
    ca, clock = tmp_path / "ca", Clock()
    trustme.CA().cert_pem.write_to_path(ca)
    path = kubeconfig(tmp_path / "config", server.url, token="t1")
    config = yaml.safe_load(Path(path).read_text())
    config["clusters"][0]["cluster"] |= {
        "certificate-authority": str(ca),
        "server": server.url.replace("http", "https"),
    }
    Path(path).write_text(yaml.safe_dump(config))
    client = ApiClient(loader(path), monotonic=clock)
    links = []
    for seconds in (0.0, 60.0, 120.0):
        clock.seconds = seconds
        with pytest.raises(UnreachableError):  # nobody speaks TLS there
            await client.get("/api/v1/nodes", {"limit": "2"})
        links.append(client._link.rest if client._link else None)
        if seconds:
            trustme.CA().cert_pem.write_to_path(ca)

    assert links[0] is links[1]
    assert links[1] is not links[2]
    await client.close()


@pytest.mark.parametrize("text", [None, "", "just words", "current-context: c\n"])
async def test_a_kubeconfig_that_cannot_be_used_is_the_operators_affair(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ClusterConfigError, match=f"no way to reach a cluster is known .{path}."):
        await ApiClient(loader(str(path))).get("/")


async def test_a_kubeconfig_that_breaks_later_leaves_the_old_credentials_in_use(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "config", Clock()
    client = ApiClient(loader(kubeconfig(path, server.url, token="t1")), monotonic=clock)
    await client.get("/api/v1/nodes", {"limit": "2"})
    path.unlink()
    clock.seconds = 61.0

    assert await tokens(server, client) == ["Bearer t1"]
    assert "the old ones stay in use" in caplog.text
    await client.close()


async def test_errors_say_what_the_server_said(server: ApiServer) -> None:
    client = server.client()
    server.script("list nodes", Fail(429, "slow down", retry_after=1.5))
    with pytest.raises(ApiError, match="429 R: slow down") as caught:
        await client.get("/api/v1/nodes", {"limit": "2"})

    assert (caught.value.status, caught.value.retry_after) == (429, 1.5)
    await client.close()


async def test_nobody_there_is_unreachable(server: ApiServer) -> None:
    client = server.client()
    await server.stop()
    with pytest.raises(UnreachableError):
        await client.get("/api/v1/nodes")
    await client.close()
    await server.start()
