"""How a helper reaches the coordinator: a folder that both use, or the hub's web front."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from fedhelp_edge import exchange, files
from fedhelp_edge.errors import UsageError
from fedhelp_edge.exchange.folder import FolderCarrier
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.helper import home as homes
from fedhelp_edge.parcel import keys
from fedhelp_edge.secure_sum.parcels import HELPER_READS
from fedhelp_edge.site import layout


def choose(
    home: Path, folder: Path | None, url: str, ca_file: Path | None, ask_passphrase: Callable[[], str],
    *, give_up_after: float = 60,
) -> exchange.Carrier:  # fmt: skip
    """The carrier that a command names: a folder or an address, one of them."""
    if bool(folder) == bool(url):
        raise UsageError("name the carrier folder or --url, one of them")
    if folder:
        files.check_separate(folder, home)
        return FolderCarrier(folder)
    own_keys = functools.cache(lambda: keys.load(home, ask_passphrase))  # each request is signed
    return HttpCarrier(
        url, homes.load_pins(home).federation, own_keys, home / layout.INCOMING, ca_file=ca_file,
        give_up_after=give_up_after, kinds=frozenset(HELPER_READS),
    )  # fmt: skip
