"""The text of env/ssh_key, taken apart: private keys, and the certificates that belong to them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from itertools import pairwise

from ee_runner.errors import ConfigurationError
from ee_runner.secrets import Secret
from ee_runner.values import dataclass, field

_BEGIN = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
_END = r"-----END [A-Z0-9 ]*PRIVATE KEY-----"
_CERTIFICATE = "-cert-v01@openssh.com"
_NAMED = rf"\s*[\w@.-]+{re.escape(_CERTIFICATE)}\s"

_FIELDS = {"ssh-ed25519": 1, "ssh-rsa": 2, "ssh-dss": 4, "sk-ssh-ed25519": 2, "sk-ecdsa-sha2-nistp256": 3}
_FIELDS_OF_ECDSA = 2
"""Fields of a public key after the name of its algorithm: OpenSSH's PROTOCOL, PROTOCOL.certkeys and PROTOCOL.u2f."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """An OpenSSH certificate; `key` is the public key that it certifies. Both as agents show them: in base64."""

    line: int
    text: str
    blob: str
    key: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The private keys, each with the line ends that OpenSSH insists on, and the certificates, in their order."""

    private: tuple[str, ...] = field(repr=False)
    certificates: tuple[Certificate, ...] = ()


def parse(value: Secret) -> Keys:
    """Take private keys of any format that OpenSSH reads apart, one after the other, with certificates among them.

    A certificate is a line as in a ``-cert.pub`` file. Other text outside of the keys is passed over. Raises
    ConfigurationError when there is no private key, and for a certificate that is cut.
    """
    lines = [line.rstrip() for line in value.reveal().splitlines()]
    certified = [number for number, line in enumerate(lines) if re.match(_NAMED, f"{line} ")]
    certificates = tuple(_certificate(lines[number], number + 1) for number in certified)
    private = _blocks([line for number, line in enumerate(lines) if number not in certified])
    if not private:
        raise ConfigurationError(
            "env/ssh_key (ssh_key) holds no private key: there is no line `-----BEGIN ... PRIVATE KEY-----` in it. "
            "Give the content of the private key file, all of its lines."
        )
    return Keys(private, certificates)


def _blocks(lines: Sequence[str]) -> tuple[str, ...]:
    """Cut the text before each key's first line; behind its last line nothing is of the key."""
    text = "\n".join(lines)
    starts = [found.start() for found in re.finditer(_BEGIN, text)]
    blocks = [text[start:end] for start, end in pairwise((*starts, len(text)))]
    return tuple(block[: end.end() if (end := re.search(_END, block)) else None].strip() + "\n" for block in blocks)


def _certificate(text: str, line: int) -> Certificate:
    algorithm, _, rest = text.strip().partition(" ")
    encoded = rest.split()[0] if rest.split() else ""
    try:
        key = _certified(algorithm, base64.b64decode(encoded, validate=True))
    except ValueError as error:
        raise ConfigurationError(
            f"env/ssh_key (ssh_key), line {line}: the certificate can not be read: {error}. "
            "Give the content of the -cert.pub file, in one line."
        ) from None
    return Certificate(line, f"{text.strip()}\n", encoded, base64.b64encode(key).decode())


def _certified(algorithm: str, blob: bytes) -> bytes:
    """Return the public key that a certificate certifies: its fields stand behind the name and a nonce."""
    plain = algorithm.removesuffix(_CERTIFICATE)
    count = _FIELDS.get(plain, _FIELDS_OF_ECDSA if plain.startswith("ecdsa-sha2-") else 0)
    if not count:
        raise ValueError(f"the algorithm {algorithm} is not known")
    fields = _fields(blob, 2 + count)
    if fields[0] != algorithm.encode():
        raise ValueError("its name and its content are of two algorithms")
    own = f"{plain}@openssh.com" if plain.startswith("sk-") else plain
    return b"".join(len(each).to_bytes(4, "big") + each for each in (own.encode(), *fields[2:]))


def _fields(blob: bytes, count: int) -> list[bytes]:
    fields = []
    for _ in range(count):
        end = 4 + int.from_bytes(blob[:4], "big")
        if len(blob) < max(end, 4):
            raise ValueError("it is cut")
        fields.append(blob[4:end])
        blob = blob[end:]
    return fields
