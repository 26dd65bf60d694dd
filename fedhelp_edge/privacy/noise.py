"""The secret key of a training with noise, and what follows from it.

Whoever knows the noise subtracts it, and whoever knows which images a step took knows more than epsilon says. So no
draw follows from the plan's seed, as others do: sampling, augmentation and noise follow from a key that stays at the
site. The same training has the same key, so that it ends with the same bits wherever it is interrupted. Another one,
of other images or from another model, has another key: two updates with one noise would show their difference.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

KEY_BYTES = 32
LARGEST = 8.6  # standard deviations of a normal number, at most
_BITS = 52  # of a uniform number: all values k + 1/2 are exact in double precision, and none becomes 0 or 1


def derive_key(secret: bytes, *training: object) -> bytes:
    """The key of one training, from a site's secret and all that this training depends on."""
    return hmac.digest(secret, "\n".join(map(str, training)).encode(), "sha256")


def new_key() -> bytes:
    """The key of one update's noise. It is used once and forgotten: an update that is sealed again has other noise."""
    return secrets.token_bytes(KEY_BYTES)


def lab_key(seed: int, site: str, round_: int) -> bytes:
    """The key of a simulated site. It is no secret: a simulation can be repeated, and protects nobody."""
    return hashlib.sha256(f"simulated noise/{seed}/{site}/{round_}".encode()).digest()


def normal(key: bytes, step: int, count: int) -> NDArray[np.float64]:
    """Normal numbers for one step (Box and Muller 1958). They end at `LARGEST` standard deviations."""
    radius, angle = uniform(key, step, 2 * count).reshape(2, count)
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle), np.float64)


def uniform(key: bytes, step: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers between 0 and 1 for one step: the key stream of ChaCha20 with the step as its nonce."""
    nonce = bytes(4) + step.to_bytes(12, "little")  # the first four bytes count blocks
    stream = Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(8 * count))
    words: NDArray[np.uint64] = np.frombuffer(stream, "<u8") >> np.uint64(64 - _BITS)
    return np.asarray((words + 0.5) * 2.0**-_BITS, np.float64)
