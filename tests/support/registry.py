"""A real container registry on a loopback port (plain HTTP), with or without a password."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

from .processes import MachineError, checked, free_port, serving

USERNAME = "ee-tests"
PASSWORD = "pull secret"
# bcrypt of PASSWORD: the only hash that the registry takes.
HTPASSWD = f"{USERNAME}:$2b$04$gpfbLuRZDqjTdgCFY3WT8ODrQDfhj9HPeLFSO.T93.OCLb/4a8nem\n"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that runs. `username` and `password` are empty where it asks for none."""

    address: str
    username: str
    password: str = field(repr=False)
    log: Path

    def name(self, repository: str) -> str:
        """Return the full name of an image in this registry."""
        return f"{self.address}/{repository}"

    def publish(self, repository: str, *, tag: str = "latest") -> str:
        """Put a tiny image, of one file that can't run, into the registry; return its full name."""
        layer = one_file_layer()
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._upload(repository, config, "application/vnd.docker.container.image.v1+json"),
            "layers": [self._upload(repository, layer, "application/vnd.docker.image.rootfs.diff.tar")],
        }
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), MANIFEST)
        return self.name(f"{repository}:{tag}")

    def push(self, image: str, repository: str) -> str:
        """Push an image of root's podman into the registry; return its full name."""
        credentials = ["--creds", f"{self.username}:{self.password}"] if self.username else []
        checked(
            [
                "podman",
                "push",
                "--quiet",
                "--tls-verify=false",
                *credentials,
                image,
                f"docker://{self.name(repository)}",
            ]
        )
        return self.name(repository)

    def _upload(self, repository: str, blob: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        place = self._send("POST", f"/v2/{repository}/blobs/uploads/")
        joint = "&" if "?" in place else "?"
        self._send("PUT", f"{place}{joint}digest={digest}", blob, "application/octet-stream")
        return {"mediaType": media_type, "size": len(blob), "digest": digest}

    def _send(self, method: str, path: str, body: bytes = b"", content_type: str = "application/octet-stream") -> str:
        """Send a request and return the Location that the registry answers with, if any."""
        request = urllib.request.Request(
            urljoin(f"http://{self.address}", path), data=body, method=method, headers={"Content-Type": content_type}
        )
        if self.username:
            token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with direct.open(request, timeout=10) as answer:
            return answer.headers.get("Location") or ""


# The environment may name a proxy; loopback goes past it.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def serve(*, auth: bool = False) -> Iterator[Registry]:
    """Run an empty registry for as long as the block lasts; with `auth` every request needs the password."""
    server = shutil.which("docker-registry") or shutil.which("registry")
    if server is None:
        raise MachineError("docker-registry is not installed; run: apt-get install docker-registry")
    directory = Path(tempfile.mkdtemp(prefix="ee-tests-registry-"))
    port = free_port()
    (directory / "htpasswd").write_text(HTPASSWD)
    (directory / "config.yml").write_text(json.dumps(configuration(directory, port=port, auth=auth)))
    registry = Registry(
        address=f"127.0.0.1:{port}",
        username=USERNAME if auth else "",
        password=PASSWORD if auth else "",
        log=directory / "log",
    )
    try:
        with serving([server, "serve", directory / "config.yml"], log=registry.log, ready=lambda: answers(registry)):
            yield registry
    finally:
        shutil.rmtree(directory)


def configuration(directory: Path, *, port: int, auth: bool) -> dict[str, object]:
    basic = {"htpasswd": {"realm": "ee-tests", "path": str(directory / "htpasswd")}}
    return {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **({"auth": basic} if auth else {}),
    }


def answers(registry: Registry) -> bool:
    try:
        with direct.open(f"http://{registry.address}/v2/", timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def one_file_layer() -> bytes:
    content = b"an image for the tests of pulling\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        entry = tarfile.TarInfo("README")
        entry.size = len(content)
        layer.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
