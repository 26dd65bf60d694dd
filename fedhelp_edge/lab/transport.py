"""How arrays travel in a lab run: within memory, or, with `--sealed`, through real parcels."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import update
from fedhelp_edge.codec import Codec
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.update import Array, Schema

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Transferred:
    """Arrays after their way through a codec."""

    arrays: Arrays  # as they arrive
    size: int  # bytes on the way


def transfer(
    codec: Codec, arrays: Arrays, schema: Schema, base: Arrays, transport: SealedTransport | None = None
) -> Transferred:
    """Encodes the arrays of a schema, lets them travel, and decodes them."""
    encoded, _ = codec.encode({t.name: arrays[t.name] for t in schema.tensors}, base, {})
    encoded, size = send(encoded, codec.wire_schema(schema), transport)
    return Transferred(dict(codec.decode(encoded, base)), size)


def send(encoded: Arrays, schema: Schema, transport: SealedTransport | None) -> tuple[Arrays, int]:
    """Lets encoded arrays travel; returns them as they arrive, and the bytes on the way."""
    return transport.transfer(encoded, schema) if transport else (encoded, update.schema_of(encoded).size)


class SealedTransport:
    """Signs, encrypts, opens and checks arrays as between machines, with keys of this run and without a roster."""

    def __init__(self) -> None:
        self._sender, self._reader = keys.generate(), keys.generate()
        self._sent = 0

    def transfer(self, encoded: Arrays, schema: Schema) -> tuple[Arrays, int]:
        """The arrays out of their parcel, and the parcel's size in bytes."""
        body = io.BytesIO()
        update.write(body, encoded)
        self._sent += 1
        context = statement.new_context(
            "update", federation="fh-" + "0" * 32, round=1, task=statement.ZERO_HASH,
            base=hashlib.sha256(body.getvalue()).hexdigest(), sender="lab",
            sender_key=sshsig.fingerprint(self._sender.public.sign), recipients=[self._reader.public.recipient],
            seq=self._sent,
        )  # fmt: skip
        body.seek(0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "update.fhx"
            parcel.seal(path, context, body, self._sender.sign, [self._reader.public.recipient])
            with parcel.open(path, parcel.any_signer, [self._reader.identity]) as opened:
                arrays = dict(update.read(opened.body, schema))
                update.check_values(arrays)
            return arrays, path.stat().st_size
