"""The two private keys of a site: Ed25519 to sign, age X25519 to receive. One file holds both, under a passphrase.

`keys.age` is an ordinary passphrase-encrypted age file: `age -d keys.age` shows an OpenSSH private key and, below it,
an age identity. A backup is the same in text form. `keys.pub` has the public halves: showing them needs no passphrase.
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
_LOCKED, _OPEN, _PUBLIC = "keys.age", "keys.txt", "keys.pub"


@dataclass(frozen=True)
class Public:
    """The halves that others may know."""

    sign: str  # as OpenSSH writes it: "ssh-ed25519 AAAA…"
    recipient: str  # "age1…"


@dataclass(frozen=True)
class Keys:
    sign: Ed25519PrivateKey = field(repr=False)
    identity: str = field(repr=False)

    @property
    def public(self) -> Public:
        return Public(sshsig.public_line(self.sign.public_key()), age.recipient_of(self.identity))


def new() -> Keys:
    return Keys(Ed25519PrivateKey.generate(), age.new_identity())


def save(folder: Path, keys: Keys, passphrase: str | None) -> Path:
    """Keep keys in a folder that has none yet. Without a passphrase only the file's permissions guard them."""
    check_none(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.sync_folder(folder.parent)
    (folder / _PUBLIC).unlink(missing_ok=True)  # left by an attempt that was cut off
    for name in (_LOCKED, _OPEN, _PUBLIC):
        files.clear_parts(folder / name)
    with files.writing(folder / _PUBLIC, private=False) as file:
        file.write(json.dumps(vars(keys.public), indent=1).encode() + b"\n")
    path = folder / (_OPEN if passphrase is None else _LOCKED)
    _write(path, keys, passphrase, armor=False)
    return path


def take_over(folder: Path, made: Path) -> None:
    """Put the keys of `made` into the place of the folder's; called again, it ends what was cut off."""
    for name in (_LOCKED, _OPEN, _PUBLIC):  # the public half last: while it is there, this has not ended
        if (made / name).exists():
            (made / name).replace(folder / name)
    files.sync_folder(folder)
    shutil.rmtree(made)  # with what an attempt that was cut off left in it
    files.sync_folder(folder)


def remove(folder: Path) -> None:
    """Delete the keys of a folder. Without the private halves the public ones count for nothing."""
    for name in (_LOCKED, _OPEN, _PUBLIC):
        (folder / name).unlink(missing_ok=True)
    files.sync_folder(folder)


def are_in(folder: Path) -> bool:
    return _stored(folder) is not None


def check_none(folder: Path) -> None:
    if are_in(folder):
        raise KeysExistError(f"there are keys in {folder.name}")


def load(folder: Path, ask: Callable[[], str]) -> Keys:
    """The keys of a folder; `ask` is called for the passphrase if they have one."""
    path = check_guarded(folder)
    keys = _read(path, ask() if path.name == _LOCKED else None, armor=False)
    if keys.public != public(folder):
        raise KeysCorruptError(f"{path.name} and {_PUBLIC} do not belong together")
    return keys


def public(folder: Path) -> Public:
    """The public halves, without a passphrase."""
    _found(folder)
    return public_half(folder)


def public_half(folder: Path) -> Public:
    """What `keys.pub` says, whether or not the private halves are there."""
    try:
        with files.reading(folder / _PUBLIC) as file:
            found = Public(**json.loads(file.read(_LIMIT)))
        sshsig.public_raw(found.sign)
        age.check_recipient(found.recipient)
    except (ValueError, TypeError, AttributeError, RecursionError, FileNotFoundError, FedhelpError):
        raise KeysCorruptError(f"{_PUBLIC} is damaged") from None
    return found


def is_locked(folder: Path) -> bool:
    return (folder / _LOCKED).exists()


def exist(folder: Path) -> bool:
    return _stored(folder) is not None


def backup(path: Path, keys: Keys, passphrase: str) -> None:
    """Write keys in text form, under a passphrase."""
    files.clear_parts(path)
    _write(path, keys, passphrase, armor=True)


def restore(path: Path, passphrase: str) -> Keys:
    """The keys of a backup."""
    return _read(path, passphrase, armor=True)


def _stored(folder: Path) -> Path | None:
    return next((path for name in (_LOCKED, _OPEN) if os.path.lexists(path := folder / name)), None)


def _found(folder: Path) -> Path:
    if path := _stored(folder):
        return path
    raise NoKeysError(f"there are no keys in {folder.name}")


def check_guarded(folder: Path) -> Path:
    """Where the keys are, if nobody else can read them."""
    path = _found(folder)
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise KeysModeError(f"{path.name} is a link or no ordinary file")
    if os.name != "nt" and found.st_mode & 0o077:
        raise KeysModeError(f"{path.name} can be read by other users of this machine")
    return path


def _secret(passphrase: str) -> age.Passphrase:
    return age.Passphrase(unicodedata.normalize("NFC", passphrase.strip()))


def _write(path: Path, keys: Keys, passphrase: str | None, *, armor: bool) -> None:
    pem = keys.sign.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    plain = io.BytesIO(pem + keys.identity.encode() + b"\n")
    with files.writing(path) as file:
        if passphrase is None:
            file.write(plain.getvalue())
        else:
            age.encrypt(plain, file, [_secret(passphrase)], armor=armor)


def _read(path: Path, passphrase: str | None, *, armor: bool) -> Keys:
    plain = io.BytesIO()
    try:
        with files.reading(path) as file:
            if passphrase is None:
                plain.write(file.read(_LIMIT))
            else:
                age.decrypt(io.BytesIO(file.read(_LIMIT)), plain, [_secret(passphrase)], armor=armor)
    except NoMatchError:
        raise WrongPassphraseError("the passphrase does not fit") from None
    except (FileKindError, ArmorError):  # of a backup, which may have been copied or typed in badly
        raise
    except FedhelpError:
        raise KeysCorruptError(f"{path.name} is damaged") from None
    pem, end, identity = plain.getvalue().partition(_PEM_END)
    try:
        sign = load_ssh_private_key(pem + end, password=None)
        keys = Keys(sign, identity.decode().strip()) if isinstance(sign, Ed25519PrivateKey) else None
        age.recipient_of(keys.identity if keys else "")
    except (ValueError, TypeError, UnsupportedAlgorithm, FedhelpError):
        keys = None
    if not keys:
        raise KeysCorruptError(f"{path.name} does not hold the two keys")
    return keys
