"""Certificates and kubeconfigs of one control plane."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a certificate and its key are, as PEM files."""

    cert: Path
    key: Path


class Pki:
    """One authority for servers and clients alike, its files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.ca = folder / "ca.crt"
        self._authority.cert_pem.write_to_path(self.ca)

    @property
    def ca_bundle(self) -> str:
        """As clientConfig.caBundle wants it."""
        return base64.b64encode(self.ca.read_bytes()).decode()

    def server(self, name: str, *more: str) -> KeyPair:
        """A certificate for a server on loopback, and at more addresses or names."""
        return self._write(name, self._authority.issue_cert("127.0.0.1", "localhost", *more))

    def client(self, name: str, *, group: str | None = None) -> KeyPair:
        """A certificate that says who a client is: the user is the common name, the group the organization.

        The host name is nobody's; without any, Go refuses the certificate for an empty extension.
        """
        host = f"{name.replace(':', '-')}.client"
        return self._write(name, self._authority.issue_cert(host, common_name=name, organization_name=group))

    def signing_key(self, name: str) -> Path:
        """A key for ServiceAccount tokens."""
        return self.server(name).key

    def _write(self, name: str, issued: trustme.LeafCert) -> KeyPair:
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(pair.cert, append=pair.cert.exists())
        issued.private_key_pem.write_to_path(pair.key)
        pair.key.chmod(0o600)
        return pair

    def trusting(self, client: KeyPair | None = None) -> ssl.SSLContext:
        """What a client of our servers needs."""
        context = ssl.create_default_context(cafile=self.ca)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context

    def kubeconfig(self, server: str, client: KeyPair) -> Path:
        """Writes a kubeconfig. JSON is YAML."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority": str(self.ca)}}],
            "users": [
                {"name": "user", "user": {"client-certificate": str(client.cert), "client-key": str(client.key)}},
            ],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "user"}}],
            "current-context": "e2e",
        }
        path = client.cert.with_suffix(".kubeconfig")
        path.write_text(json.dumps(config), encoding="utf-8")
        return path
