"""The two private keys of a site: Ed25519 to sign, age to decrypt. One file holds both, under a passphrase.

`keys.age` is an ordinary passphrase-encrypted age file: `age -d keys.age` prints an OpenSSH private key and, below it,
an age identity. A backup is the same in text form. `keys.pub` has the public keys: reading them needs no passphrase.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from fedhelp_edge import files
from fedhelp_edge.errors import (
    ArmorError,
    FedhelpError,
    FileKindError,
    KeysCorruptError,
    KeysExistError,
    KeysModeError,
    NoKeysError,
    NoMatchError,
    WrongPassphraseError,
)
from fedhelp_edge.parcel import age, sshsig

_PEM_END = b"-----END OPENSSH PRIVATE KEY-----\n"
_LIMIT = 64 << 10
_LOCKED_FILE, _UNLOCKED_FILE, _PUBLIC_FILE = "keys.age", "keys.txt", "keys.pub"


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of a site, as `keys.pub` has them."""

    sign: str  # as OpenSSH writes it: "ssh-ed25519 AAAA…"
    recipient: str  # "age1…", or a helper's "age1pq1…"


@dataclass(frozen=True)
class Keys:
    """The private keys of a site."""

    sign: Ed25519PrivateKey = field(repr=False)
    identity: str = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        return PublicKeys(sshsig.public_line(self.sign.public_key()), age.recipient_of(self.identity))


def generate(*, post_quantum: bool = False) -> Keys:
    """Generate a new pair of keys."""
    return Keys(Ed25519PrivateKey.generate(), age.new_identity(post_quantum=post_quantum))


def save(folder: Path, keys: Keys, passphrase: str | None) -> Path:
    """Write keys to a folder that has none yet. Without a passphrase only the file's permissions protect them."""
    check_absent(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.sync_folder(folder.parent)
    (folder / _PUBLIC_FILE).unlink(missing_ok=True)  # left by an interrupted attempt
    for name in (_LOCKED_FILE, _UNLOCKED_FILE, _PUBLIC_FILE):
        files.remove_partials(folder / name)
    with files.writing(folder / _PUBLIC_FILE, private=False) as file:
        file.write(json.dumps(vars(keys.public), indent=1).encode() + b"\n")
    path = folder / (_UNLOCKED_FILE if passphrase is None else _LOCKED_FILE)
    _write(path, keys, passphrase, armor=False)
    return path


def replace(folder: Path, new_folder: Path) -> None:
    """Replace the folder's keys with those of `new_folder`; called again, it completes an interrupted call."""
    for name in (
        _LOCKED_FILE,
        _UNLOCKED_FILE,
        _PUBLIC_FILE,
    ):  # the public keys last: while they are there, this is not complete
        if (new_folder / name).exists():
            (new_folder / name).replace(folder / name)
    files.sync_folder(folder)
    shutil.rmtree(new_folder)  # with any leftovers of an interrupted attempt
    files.sync_folder(folder)


def remove(folder: Path) -> None:
    """Delete the keys of a folder, the private ones first: public keys alone count for nothing."""
    for name in (_LOCKED_FILE, _UNLOCKED_FILE, _PUBLIC_FILE):
        (folder / name).unlink(missing_ok=True)
    files.sync_folder(folder)


def check_absent(folder: Path) -> None:
    """Raise if the folder has keys: they are never overwritten."""
    if exist(folder):
        raise KeysExistError(f"there are keys in {folder.name}")


def load(folder: Path, ask: Callable[[], str]) -> Keys:
    """Load the keys of a folder; `ask` is called for the passphrase if they have one."""
    path = check_permissions(folder)
    keys = _read(path, ask() if path.name == _LOCKED_FILE else None, armor=False)
    if keys.public != load_public(folder):
        raise KeysCorruptError(f"{path.name} and {_PUBLIC_FILE} do not belong together")
    return keys


def load_public(folder: Path) -> PublicKeys:
    """Load the public keys of a folder that has private ones; no passphrase is needed."""
    _existing_key_file(folder)
    return read_public_file(folder)


def read_public_file(folder: Path) -> PublicKeys:
    """Read `keys.pub`, whether or not the private keys are there."""
    try:
        with files.reading(folder / _PUBLIC_FILE) as file:
            public_keys = PublicKeys(**json.loads(file.read(_LIMIT)))
        sshsig.public_raw(public_keys.sign)
        age.check_recipient(public_keys.recipient)
    except (ValueError, TypeError, AttributeError, RecursionError, FileNotFoundError, FedhelpError) as error:
        raise KeysCorruptError(f"{_PUBLIC_FILE} is damaged") from error
    return public_keys


def is_locked(folder: Path) -> bool:
    """Whether the keys are under a passphrase."""
    return (folder / _LOCKED_FILE).exists()


def exist(folder: Path) -> bool:
    """Whether the folder has private keys; a dangling link counts, so that it is not overwritten."""
    return _key_file(folder) is not None


def write_backup(path: Path, keys: Keys, passphrase: str) -> None:
    """Write keys in text form, encrypted with a passphrase."""
    files.remove_partials(path)
    _write(path, keys, passphrase, armor=True)


def read_backup(path: Path, passphrase: str) -> Keys:
    """Read the keys from a backup."""
    return _read(path, passphrase, armor=True)


def _key_file(folder: Path) -> Path | None:
    return next((path for name in (_LOCKED_FILE, _UNLOCKED_FILE) if os.path.lexists(path := folder / name)), None)


def _existing_key_file(folder: Path) -> Path:
    if path := _key_file(folder):
        return path
    raise NoKeysError(f"there are no keys in {folder.name}")


def check_permissions(folder: Path) -> Path:
    """Return the path of the key file; raise if other users can read it, or if it is a link."""
    path = _existing_key_file(folder)
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise KeysModeError(f"{path.name} is a link, or not an ordinary file")
    if os.name != "nt" and status.st_mode & 0o077:
        raise KeysModeError(f"{path.name} can be read by other users of this computer")
    return path


def _normalised(passphrase: str) -> age.Passphrase:
    return age.Passphrase(unicodedata.normalize("NFC", passphrase.strip()))


def _write(path: Path, keys: Keys, passphrase: str | None, *, armor: bool) -> None:
    pem = keys.sign.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    plaintext = io.BytesIO(pem + keys.identity.encode() + b"\n")
    with files.writing(path) as file:
        if passphrase is None:
            file.write(plaintext.getvalue())
        else:
            age.encrypt(plaintext, file, [_normalised(passphrase)], armor=armor)


def _read(path: Path, passphrase: str | None, *, armor: bool) -> Keys:
    plaintext = io.BytesIO()
    try:
        with files.reading(path) as file:
            if passphrase is None:
                plaintext.write(file.read(_LIMIT))
            else:
                age.decrypt(io.BytesIO(file.read(_LIMIT)), plaintext, [_normalised(passphrase)], armor=armor)
    except NoMatchError as error:
        raise WrongPassphraseError("the passphrase does not fit") from error
    except (FileKindError, ArmorError):  # a backup may have been copied or typed in badly
        raise
    except FedhelpError as error:
        raise KeysCorruptError(f"{path.name} is damaged") from error
    pem, pem_end, identity = plaintext.getvalue().partition(_PEM_END)
    try:
        signing_key = load_ssh_private_key(pem + pem_end, password=None)
        keys = Keys(signing_key, identity.decode().strip()) if isinstance(signing_key, Ed25519PrivateKey) else None
        age.recipient_of(keys.identity if keys else "")
    except (ValueError, TypeError, UnsupportedAlgorithm, FedhelpError):
        keys = None
    if not keys:
        raise KeysCorruptError(f"{path.name} does not hold the two keys")
    return keys
