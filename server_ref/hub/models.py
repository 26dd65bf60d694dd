"""The global models of a hub: their files, and the parcels in which sites receive them.

A model is sealed once for each group of sites, because an age file has at most 1,024 recipients.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence

from fedhelp_edge import files, update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import HubDamagedError
from fedhelp_edge.merge.closing import merger_state
from fedhelp_edge.parcel import canon, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import roster
from fedhelp_edge.update import Array
from server_ref.hub.hub import COORDINATOR, Hub
from server_ref.hub.states import State
from server_ref.hub.tables import parcels_table, rounds_table, updates_table

GROUP_SIZE = 1000  # sites
FIRST_GROUP = ""
_STATE_HEADER_LIMIT = 4 << 20  # bytes; the hub wrote these files itself


def group_of(site: str) -> str:
    """The group of sites to which this one belongs: by its number, so that no site ever changes groups."""
    number = int(site.rpartition("-")[2]) - 1
    return str(number // GROUP_SIZE) if number >= GROUP_SIZE else FIRST_GROUP


# --- files ---------------------------------------------------------------------------------------------------------
def save(hub: Hub, arrays: Mapping[str, Array]) -> str:
    """Save a model in the form in which it travels; returns its name, the SHA-256 of these bytes.

    Its merger's state is a file of its own, which a fact of the hub names.
    """
    state = merger_state(arrays)
    wire, _ = CODECS[hub.plan.wire.down].encode({n: arrays[n] for n in arrays if n not in state}, {}, {})
    name = _write(hub, wire)
    if state:
        with hub.database.transaction():
            hub.database.set_fact(_state_fact(name), _write(hub, state))
    return name


def _state_fact(name: str) -> str:
    return f"kept {name}"


def _write(hub: Hub, arrays: Mapping[str, Array]) -> str:
    file = io.BytesIO()
    update.write(file, arrays)
    name = hashlib.sha256(file.getvalue()).hexdigest()
    try:
        read(hub, name)
    except HubDamagedError:  # not there yet, or not what its name says
        files.write_atomic(hub.database.model_path(name), file.getvalue())
    return name


def read(hub: Hub, name: str) -> bytes:
    """A saved model's file, if its bytes have the hash that names it."""
    try:
        with files.reading(hub.database.model_path(name)) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise HubDamagedError(f"model {name[:12]} is gone from the disk") from error
    if hashlib.sha256(data).hexdigest() != name:
        raise HubDamagedError(f"model {name[:12]} does not match its name")
    return data


def load(hub: Hub, name: str) -> dict[str, Array]:
    """The tensors of a saved model, and its merger's state."""
    model = dict(CODECS[hub.plan.wire.down].decode(update.load(read(hub, name)), {}))
    if state_name := hub.database.fact(_state_fact(name)):
        model |= update.load(read(hub, state_name), limit=_STATE_HEADER_LIMIT)
    return model


# --- parcels -------------------------------------------------------------------------------------------------------
def publish(
    hub: Hub, coordinator_keys: Keys, round_: int, name: str, inputs: Sequence[str], type_: str, **detail: canon.Value
) -> None:
    """Seal a round's new model, within a transaction.

    A line of the log binds all that the model rests on, and a signed receipt binds the log.
    """
    first, *others = (parcel.hash for parcel in _seal(hub, coordinator_keys, round_, name, inputs))
    if others:  # of the other groups of sites
        detail["others"] = others
    subject = f"round {round_}" if round_ else COORDINATOR
    log = hub.log(type_, subject, model=name, parcel=first, roster=hub.roster.hash, **detail)
    hub.publish_receipt(coordinator_keys, COORDINATOR, first, "published", log)


def publish_again(hub: Hub, coordinator_keys: Keys, sites: Collection[str] = ()) -> None:
    """Seal the newest model to the sites that are active now, or to the groups of `sites` only."""
    newest = rounds_table.newest_model(hub.database)
    _seal(hub, coordinator_keys, newest["round"], newest["model"], inputs_of(hub, newest["round"]), sites)


def newest_parcel(hub: Hub, group: str) -> str:
    """The hash of the parcel in which a group of sites receives the newest model, or "".

    Until the first round opens no site gets one. `open --start` may still replace the first weights, and a site that
    knows two models of one round refuses the second.
    """
    if not rounds_table.any_opened(hub.database):
        return ""
    if row := parcels_table.newest_model(hub.database, group):
        context = statement.parse(row["line"].encode()).context
        newest = rounds_table.newest_model(hub.database)
        if (context["epoch"], context["base"]) == (hub.charter.epoch, newest["model"]):
            return str(row["hash"])
    return ""


def newest_parcels(hub: Hub) -> list[str]:
    """The newest model, sealed to every group."""
    groups = {FIRST_GROUP, *(group_of(site.id) for site in hub.roster.sites)}
    return [hash_ for group in sorted(groups) if (hash_ := newest_parcel(hub, group))]


def inputs_of(hub: Hub, round_: int) -> list[str]:
    """The updates that a round's model was merged from."""
    return [row["hash"] for row in updates_table.counting(hub.database, round_, State.MERGED)]


def _seal(
    hub: Hub, coordinator_keys: Keys, round_: int, name: str, inputs: Sequence[str], sites: Collection[str] = ()
) -> list[Statement]:
    """Seal a model to the active sites and to the hub itself, in one parcel for each group of sites.

    With `sites`, seals only the parcels of their groups. The facts list the inputs where these fit into their line;
    the log names them in any case, and the statement binds their hash.
    """
    own = coordinator_keys.public.recipient
    recipients_of: dict[str, set[str]] = {}
    for site in hub.roster.sites:
        if site.status == roster.ACTIVE:
            recipients_of.setdefault(group_of(site.id), {own}).add(site.recipient)
    recipients_of = recipients_of or {FIRST_GROUP: {own}}
    groups = {group_of(site) for site in sites} or recipients_of.keys()
    listed_inputs = {"inputs": list(inputs)} if len(inputs) <= GROUP_SIZE else {}
    return [
        hub.publish(
            "global", read(hub, name), coordinator_keys, number=round_, site=group, recipients=recipients,
            facts={**listed_inputs, "readers": recipients}, federation=hub.federation, epoch=hub.charter.epoch,
            round=round_, base=name, readers=statement.list_digest(recipients), inputs=statement.list_digest(inputs),
        )
        for group, recipients in sorted((group, sorted(recipients_of[group])) for group in groups)
    ]  # fmt: skip
