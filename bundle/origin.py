"""Where a bundle comes from: a signature beside its manifest, and the hash of the manifest.

The manifest lists every file with its SHA-256, so whoever vouches for the manifest's bytes vouches
for the bundle, as long as the files are hashed too: who asks for an origin gets both, and before
anything of the bundle is parsed. `manifest.sig` is an Ed25519 signature (RFC 8032) of 64 bytes over
`PREFIX` and these bytes; it does not say by whom, which is for the reader to know. Keys are files
as openssl and ssh-keygen write them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from seq2edge.bundle.manifest import MANIFEST, SIGNATURE
from seq2edge.errors import BundleError, OptionError
from seq2edge.files.records import RecordError, decode
from seq2edge.files.storage import Sha256, file_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE_SIZE: Final = 64  # bytes
PREFIX: Final = b"seq2edge bundle manifest 1\n"  # a key may sign other things too
LARGEST_KEY = 2**16  # bytes of a key file

KeyFile: TypeAlias = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What is asked for: a signature by one of `keys`, a manifest of the hash `sha256`, or both."""

    keys: tuple[tuple[str, Ed25519PublicKey], ...] = ()
    sha256: Sha256 | None = None

    def check(self, manifest: bytes, signature: bytes | None, subject: str) -> None:
        """Raise BundleError unless these are the bytes of a manifest of this origin."""
        actual = hashlib.sha256(manifest).hexdigest()
        if self.sha256 is not None and actual != self.sha256:
            raise BundleError(
                f"{subject}: its {MANIFEST} has SHA-256 {actual}, {self.sha256} is asked for; "
                "this is another bundle, or it was changed"
            )
        if not self.keys:
            return
        names = " or ".join(name for name, _ in self.keys)
        if signature is None:
            raise BundleError(f"{subject}: not signed, a signature of {names} is asked for")
        if not any(_verifies(key, signature, manifest) for _, key in self.keys):
            raise BundleError(
                f"{subject}: its signature is not of {names}; another key made it, or the bundle "
                "was changed"
            )


def origin_of(require_key: KeyFile | Sequence[KeyFile] | None, sha256: str | None) -> Origin | None:
    """What is asked for, None for nothing: files of public keys, any of which may have signed.

    Raises OptionError for files that hold no key, for an empty list and for what is no hash.
    """
    if require_key is None and sha256 is None:
        return None
    files: Sequence[KeyFile] = ()
    if require_key is not None:
        files = [require_key] if isinstance(require_key, str | os.PathLike) else require_key
        if not files:
            raise OptionError("require-key: no key, name a file; without the option none is needed")
    if sha256 is not None:
        try:
            sha256 = str(decode(Sha256, sha256.lower(), "sha256"))
        except RecordError as error:
            raise OptionError(str(error)) from error
    return Origin(keys=tuple((str(file), read_public_key(file)) for file in files), sha256=sha256)


def sign(manifest: bytes, key: KeyFile) -> bytes:
    """The signature of a manifest's bytes by the private key of a file. Raises OptionError."""
    return read_private_key(key).sign(PREFIX + manifest)


def read_private_key(file: KeyFile) -> Ed25519PrivateKey:
    """An Ed25519 key of a file: PKCS#8 in PEM, or OpenSSH's own form; not encrypted.

    Raises OptionError for anything else.
    """
    with _library("sign"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            load_pem_private_key,
            load_ssh_private_key,
        )

    def read(data: bytes) -> Any:
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
        return load(data, password=None)

    key: Ed25519PrivateKey = _read_key(file, read, Ed25519PrivateKey, "unencrypted private key")
    return key


def read_public_key(file: KeyFile) -> Ed25519PublicKey:
    """An Ed25519 key of a file: in PEM (SubjectPublicKeyInfo), or a line of OpenSSH.

    Raises OptionError for anything else.
    """
    with _library("require-key"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import (
            load_pem_public_key,
            load_ssh_public_key,
        )

    def read(data: bytes) -> Any:
        load = load_ssh_public_key if data.startswith(b"ssh-") else load_pem_public_key
        return load(data)

    key: Ed25519PublicKey = _read_key(file, read, Ed25519PublicKey, "public key")
    return key


def read_signature(folder: Path) -> bytes | None:
    """The signature in a bundle's folder, None where it has none. Raises BundleError."""
    path = folder / SIGNATURE
    with file_errors(path):
        if not os.path.lexists(path):
            return None
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: not a plain file, remove it")
        with path.open("rb") as file:
            data = file.read(SIGNATURE_SIZE + 1)
    check_size(len(data), str(path))
    return data


def check_size(size: int, subject: str) -> None:
    """Raise BundleError where what is there cannot be a signature."""
    if size != SIGNATURE_SIZE:
        raise BundleError(f"{subject}: no signature, which has {SIGNATURE_SIZE} bytes; remove it")


def _verifies(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, PREFIX + manifest)
    except InvalidSignature:
        return False
    return True


@contextlib.contextmanager
def _library(option: str) -> Iterator[None]:
    """What of `cryptography` is imported inside; the extra is named where it is not there."""
    try:
        yield
    except ImportError as error:
        raise OptionError(f"{option}: {error}; install seq2edge[signing]") from error


def _read_key(file: KeyFile, read: Callable[[bytes], Any], kind: type[Any], meaning: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    with file_errors(Path(file), OptionError), Path(file).open("rb") as source:
        data = source.read(LARGEST_KEY)
    try:
        key = read(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # what is wrong says openssl better
        key = None
    if not isinstance(key, kind):
        raise OptionError(f"{file}: no Ed25519 {meaning}; docs/updates.md tells how to make a pair")
    return key
