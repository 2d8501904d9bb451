"""Ed25519 key pairs in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
OPEN = serialization.NoEncryption()


@dataclasses.dataclass
class Pair:
    """The two files."""

    private: Path
    public: Path


def make_pair(folder: Path, name: str) -> Pair:
    """As `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    key = Ed25519PrivateKey.generate()
    pair.private.write_bytes(key.private_bytes(PEM, PKCS8, OPEN))
    pair.public.write_bytes(key.public_key().public_bytes(PEM, SPKI))
    return pair
