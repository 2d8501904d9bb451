"""Origin: a bundle of another key, without signature or with one changed byte is refused."""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_folders import edit, tree
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from key_pairs import OPEN, PEM, PKCS8, SPKI, Pair, make_pair

from seq2edge.bundle import Bundle, BundleWriter, describe, summarize
from seq2edge.bundle.archive import BLOCK, pack, unpack
from seq2edge.bundle.manifest import MANIFEST, SIGNATURE
from seq2edge.bundle.origin import PREFIX, sign
from seq2edge.errors import BundleError, OptionError

SSH = serialization.Encoding.OpenSSH
OPENSSH = serialization.PrivateFormat.OpenSSH


@pytest.fixture
def ours(tmp_path: Path) -> Pair:
    """The maker's key."""
    return make_pair(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Pair:
    """Somebody else's."""
    return make_pair(tmp_path, "theirs")


@pytest.fixture
def signed(folder: Path, ours: Pair, tmp_path: Path) -> Path:
    """A packed bundle that our key signed."""
    return pack(folder, tmp_path / "signed.s2e", key=ours.private)


def test_a_signed_bundle_is_accepted_as_one_file_and_as_a_folder(
    folder: Path, signed: Path, ours: Pair, tmp_path: Path
) -> None:
    """The signature goes where the manifest goes, also when it is packed again."""
    restored = unpack(signed, tmp_path / "out", require_key=ours.public)
    assert restored.signed
    assert not Bundle.open(folder).signed
    assert tree(restored.path).keys() - tree(folder).keys() == {SIGNATURE}
    assert Bundle.open(restored.path, require_key=[ours.public]) == restored
    again = pack(restored.path, tmp_path / "again.s2e")
    assert again.read_bytes() == signed.read_bytes()
    with tarfile.open(signed, "r:") as listing:
        assert listing.getnames()[:2] == [MANIFEST, SIGNATURE]


def test_changed_bytes_of_a_signed_file_are_refused(
    signed: Path, ours: Pair, tmp_path: Path
) -> None:
    """In the manifest, the signature, any file, header or padding; nothing is left behind."""
    whole = signed.read_bytes()
    place = tmp_path / "place"
    place.mkdir()
    start = whole.index(SIGNATURE.encode())
    for at in {*range(0, len(whole), 97), *range(start + BLOCK, start + BLOCK + 64)}:
        damaged = bytearray(whole)
        damaged[at] ^= 1
        signed.write_bytes(damaged)
        with pytest.raises(BundleError):
            unpack(signed, place / "out", require_key=ours.public)
        assert list(place.iterdir()) == [], at


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, "encoder.onnx", "target/tokenizer.json"])
def test_one_changed_byte_in_a_signed_folder_is_refused(
    signed: Path, ours: Pair, tmp_path: Path, name: str
) -> None:
    """Also in a file that nothing would have hashed, were no key required."""
    bundle = unpack(signed, tmp_path / "out")
    file = bundle.path / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    message = "SHA-256" if name in bundle.manifest.files else "its signature is not of .*ours"
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle.path, require_key=ours.public)


def test_another_key_and_no_signature_are_refused(
    folder: Path, signed: Path, theirs: Pair, ours: Pair, tmp_path: Path
) -> None:
    """By one line that names the key; nothing is written."""
    unsigned = pack(folder, tmp_path / "plain.s2e")
    before = sorted(tmp_path.rglob("*"))
    for file, message in ((signed, "is not of"), (unsigned, "not signed, a signature of")):
        with pytest.raises(BundleError, match=f"{message} .*theirs.pub.pem") as caught:
            unpack(file, tmp_path / "out", require_key=theirs.public)
        assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="not signed"):
        Bundle.open(folder, require_key=theirs.public)
    assert sorted(tmp_path.rglob("*")) == before
    both = [theirs.public, ours.public]  # while keys are exchanged
    assert unpack(signed, tmp_path / "out", require_key=both).signed


def test_the_origin_is_checked_before_anything_is_parsed(
    folder: Path, ours: Pair, tmp_path: Path
) -> None:
    """A hostile manifest reaches no parser, and no file but the two is opened."""
    edit(folder, lambda values: values.update(family=["hostile"]))
    (folder / "encoder.onnx").unlink()
    (folder / SIGNATURE).write_bytes(bytes(64))
    with pytest.raises(BundleError, match="its signature is not of"):
        Bundle.open(folder, require_key=ours.public)
    with pytest.raises(BundleError, match="is asked for; this is another bundle"):
        Bundle.open(folder, sha256="0" * 64)
    with pytest.raises(BundleError, match="family"):
        Bundle.open(folder)


def test_a_signature_is_of_bundles_alone(folder: Path, ours: Pair) -> None:
    """What a key signed without our prefix, in another place, is none."""
    key = serialization.load_pem_private_key(ours.private.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    manifest = (folder / MANIFEST).read_bytes()
    (folder / SIGNATURE).write_bytes(key.sign(manifest))
    with pytest.raises(BundleError, match="its signature is not of"):
        Bundle.open(folder, require_key=ours.public)
    (folder / SIGNATURE).write_bytes(key.sign(PREFIX + manifest))
    assert (folder / SIGNATURE).read_bytes() == sign(manifest, ours.private)
    assert Bundle.open(folder, require_key=ours.public).signed


@pytest.mark.parametrize("size", [0, 63, 65, 10**6])
def test_what_cannot_be_a_signature_is_refused(folder: Path, signed: Path, size: int) -> None:
    """Whether or not a key is required."""
    (folder / SIGNATURE).write_bytes(bytes(size))
    with pytest.raises(BundleError, match=r"manifest\.sig: no signature, which has 64 bytes"):
        Bundle.open(folder)
    data = bytearray(signed.read_bytes())
    at = data.index(SIGNATURE.encode())
    header = tarfile.TarInfo(SIGNATURE)
    header.size = size
    data[at : at + BLOCK] = header.tobuf(tarfile.GNU_FORMAT)
    signed.write_bytes(data)
    with pytest.raises(BundleError, match=r"'manifest\.sig': no signature"):
        unpack(signed, folder.parent / "out")


def test_a_signature_is_a_plain_file(folder: Path, ours: Pair) -> None:
    """No pipe on which a reader would wait, and no link."""
    os.mkfifo(folder / SIGNATURE)
    with pytest.raises(BundleError, match="not a plain file"):
        Bundle.open(folder, require_key=ours.public)
    (folder / SIGNATURE).unlink()
    (folder / SIGNATURE).symlink_to(ours.public)
    with pytest.raises(BundleError, match="not a plain file"):
        Bundle.open(folder, require_key=ours.public)


def test_a_signature_stands_right_behind_the_manifest(signed: Path, tmp_path: Path) -> None:
    """Once: what is read before everything else cannot come later."""
    data = signed.read_bytes()
    at = data.index(SIGNATURE.encode())
    member, end = data[at : at + 2 * BLOCK], len(data) - 2 * BLOCK
    for changed in (
        data[:end] + member + data[end:],
        data[:at] + data[at + 2 * BLOCK : end] + member + data[end:],
    ):
        signed.write_bytes(changed)
        with pytest.raises(BundleError, match="a duplicate, or not in its place"):
            unpack(signed, tmp_path / "out")


def test_the_name_of_the_signature_is_reserved(folder: Path) -> None:
    """No listed file can stand for it."""

    def listed(values: dict[str, object]) -> None:
        files = values["files"]
        assert isinstance(files, dict)
        files[SIGNATURE] = {"size": 64, "sha256": "0" * 64}

    (folder / SIGNATURE).write_bytes(bytes(64))
    edit(folder, listed)
    with pytest.raises(BundleError, match=r"'manifest\.sig' is reserved"):
        Bundle.open(folder)


def test_a_changed_bundle_loses_its_signature(signed: Path, tmp_path: Path) -> None:
    """Whoever writes a bundle anew writes another manifest, and a signed one may be replaced."""
    old = unpack(signed, tmp_path / "out")
    with BundleWriter(old.path, overwrite=True) as writer:
        for name in old.manifest.files:
            writer.path(name).write_bytes((old.path / name).read_bytes())
        new = writer.finish(dataclasses.replace(old.manifest, labels=("other",)))
    assert not new.signed
    assert not (new.path / SIGNATURE).exists()


def test_a_pinned_hash_holds_for_the_folder_and_the_file(
    folder: Path, signed: Path, tmp_path: Path
) -> None:
    """It is the manifest's, signed or not, in either case of its letters, and means hashes."""
    pinned = Bundle.open(folder).sha256
    assert describe(Bundle.open(folder))["sha256"] == pinned
    assert f"sha256      {pinned}, not signed" in summarize(describe(Bundle.open(folder)))
    for file in (signed, pack(folder, tmp_path / "plain.s2e")):
        out = tmp_path / file.stem
        assert unpack(file, out, sha256=pinned.upper()).sha256 == pinned
        with pytest.raises(BundleError, match=f"SHA-256 {pinned}, {'1' * 64} is asked for"):
            unpack(file, tmp_path / "none", sha256="1" * 64)
    assert "with a signature" in list(summarize(describe(Bundle.open(tmp_path / "signed"))))[-1]
    data = (folder / "encoder.onnx").read_bytes()
    (folder / "encoder.onnx").write_bytes(data[::-1])
    Bundle.open(folder)
    with pytest.raises(BundleError, match=r"encoder\.onnx: SHA-256"):
        Bundle.open(folder, sha256=pinned)


@pytest.mark.parametrize("text", ["", "0" * 63, "g" * 64, "0" * 64 + "\n"])
def test_what_is_no_hash_pins_nothing(folder: Path, text: str) -> None:
    """Rather an error than a check that is left out."""
    with pytest.raises(OptionError, match="sha256: expected 64 lower-case hexadecimal"):
        Bundle.open(folder, sha256=text)


def test_an_empty_list_of_keys_is_refused(folder: Path) -> None:
    """A folder of keys that happens to be empty does not switch the check off."""
    with pytest.raises(OptionError, match="require-key: no key"):
        Bundle.open(folder, require_key=[])


def test_keys_of_openssh_are_read_too(folder: Path, tmp_path: Path) -> None:
    """As `ssh-keygen -t ed25519` writes them."""
    key = Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(key.private_bytes(PEM, OPENSSH, OPEN))
    public = key.public_key().public_bytes(SSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(public + b" someone@somewhere\n")
    file = pack(folder, tmp_path / "a.s2e", key=tmp_path / "id")
    assert unpack(file, tmp_path / "out", require_key=tmp_path / "id.pub").signed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_keys_are_made_as_the_page_says(folder: Path, tmp_path: Path) -> None:
    """By the two commands of docs/updates.md."""
    page = Path(__file__).resolve().parents[2] / "docs" / "updates.md"
    commands = re.findall(r"^openssl .*", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(shlex.split(command, comments=True), cwd=tmp_path, check=True)
    file = pack(folder, tmp_path / "a.s2e", key=tmp_path / "update.pem")
    assert unpack(file, tmp_path / "out", require_key=tmp_path / "update.pub.pem").signed


def other_keys() -> dict[str, bytes]:
    """Files that hold no key, or another."""
    curve, ed = generate_private_key(SECP256R1()), Ed25519PrivateKey.generate()
    secret = serialization.BestAvailableEncryption(b"secret")
    return {
        "text": b"no key",
        "empty": b"",
        "binary": bytes(range(256)),
        "curve": curve.private_bytes(PEM, PKCS8, OPEN),
        "curve.pub": curve.public_key().public_bytes(PEM, SPKI),
        "encrypted": ed.private_bytes(PEM, PKCS8, secret),
        "ssh": b"ssh-rsa AAAA",
        "opened": b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    }


@pytest.mark.parametrize("name", other_keys())
def test_files_without_a_key_are_refused(
    folder: Path, signed: Path, tmp_path: Path, name: str
) -> None:
    """Other kinds of keys too, and a private one that is encrypted."""
    (tmp_path / name).write_bytes(other_keys()[name])
    with pytest.raises(OptionError, match=f"{name}: no Ed25519 unencrypted private key"):
        pack(folder, tmp_path / "a.s2e", key=tmp_path / name)
    with pytest.raises(OptionError, match=f"{name}: no Ed25519 public key"):
        unpack(signed, tmp_path / "out", require_key=tmp_path / name)
    with pytest.raises(OptionError, match="gone: No such file"):
        unpack(signed, tmp_path / "out", require_key=tmp_path / "gone")
    assert not (tmp_path / "a.s2e").exists()


def test_the_two_keys_of_a_pair_are_told_apart(folder: Path, ours: Pair, tmp_path: Path) -> None:
    """Nothing is signed with a public key, and none is checked with a private one."""
    with pytest.raises(OptionError, match=r"ours\.pub\.pem: no Ed25519 unencrypted private key"):
        pack(folder, tmp_path / "a.s2e", key=ours.public)
    with pytest.raises(OptionError, match=r"ours\.pem: no Ed25519 public key"):
        Bundle.open(folder, require_key=ours.private)


def test_without_the_library_a_key_is_refused_and_the_rest_works(
    folder: Path, signed: Path, ours: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without the extra reads signed bundles, and never leaves a check out."""
    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError("No module named 'cryptography'")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    pinned = unpack(signed, tmp_path / "out", sha256=Bundle.open(folder).sha256)
    assert pinned.signed
    for call in (
        lambda: pack(folder, tmp_path / "a.s2e", key=ours.private),
        lambda: Bundle.open(tmp_path / "out", require_key=ours.public),
    ):
        with pytest.raises(OptionError, match=r"install seq2edge\[signing\]"):
            call()


def test_a_manifest_that_changes_while_it_is_packed_is_not_signed(
    folder: Path, ours: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed is what was checked."""
    open_checked: Callable[[Path], Bundle] = Bundle.open

    def then_changed(path: Path) -> Bundle:
        opened = open_checked(path)
        edit(folder, lambda values: values.update(family="other"))
        return opened

    monkeypatch.setattr(Bundle, "open", then_changed)
    with pytest.raises(BundleError, match="was changed while it was read"):
        pack(folder, tmp_path / "a.s2e", key=ours.private)
    assert json.loads((folder / MANIFEST).read_bytes())["family"] == "other"
