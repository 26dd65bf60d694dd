"""Results that are the same on every machine: integers, bytes, and float arithmetic in a fixed order.

The inputs are small integers divided by powers of two, so that no machine rounds them differently.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import api
from tests.golden.api import Array, sha256, sha256_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CLASSES = ["melanoma", "naevus", "other"]
FEDERATION = "fh-" + "3c" * 16
HASH = "a1" * 32
SITES = {"site-001": 400, "site-002": 90, "site-003": 60, "site-004": 30, "site-005": 7}
BAD_PLANS = {
    "typing errors": 'classes = ["a"]\nmethod = "fedavgg"\nrounds = 0\n[wire]\nup = "f8"\n[imag]\nsize = 8\n',
    "not TOML": "classes = [\n",
    "wrong types": 'classes = ["a", "b"]\nrounds = "2"\n[merge]\ncap = 2.0\n[image]\nchannels = 2\n',
}


def record() -> dict[str, Any]:
    return {
        "plan": _plan(),
        "methods": _methods(),
        "merging": _merging(),
        "codecs": _codecs(),
        "canonical": _canonical(),
        "parcels": _parcels(),
        "keys": _keys(),
        "draws": _draws(),
        "images": _images(),
        "figures": _figures(),
        "errors": _errors(),
    }


def numbers(shape: tuple[int, ...], *key: int, low: int = -64, high: int = 65, over: int = 1024) -> Array:
    """Random multiples of 1/over: exact in float32 and float16."""
    draw = np.random.Generator(np.random.Philox(key=[key[0], key[-1]]))
    return (draw.integers(low, high, shape) / over).astype(np.float32)


@cache
def plan(method: str = "fedavg", up: str = "f32", norm: str = "shared", layers: str = "batch") -> Any:
    text = f'classes = {CLASSES}\nmethod = "{method}"\nrounds = 2\nseed = 11\n'.replace("'", '"')
    return api.plan(f'{text}[image]\nsize = 8\n[nets]\nnorm = "{layers}"\n[wire]\nup = "{up}"\nnorm = "{norm}"\n')


def site_updates(base: dict[str, Array]) -> dict[str, dict[str, Array]]:
    """An update of each site: the base moved a little; the last site moves it seven times as far."""
    return {
        site: {
            name: base[name] + (7 if number == 5 else 1) * np.abs(numbers(base[name].shape, number, index))
            for index, name in enumerate(base)
        }
        for number, site in enumerate(SITES, 1)
    }


def small() -> dict[str, Array]:
    shapes = {"conv.weight": (4, 3, 3, 3), "bn1.running_mean": (4,), "bn1.running_var": (4,), "linear.bias": (2,)}
    return {name: 1 + numbers(shape, 99, index) for index, (name, shape) in enumerate(shapes.items())}


def _plan() -> dict[str, Any]:
    return {
        "defaults": tomllib.loads(api.template()),
        "mistakes": {name: api.plan_mistakes(text) for name, text in BAD_PLANS.items()},
    }


def _methods() -> dict[str, Any]:
    """For each method, codec and kind of normalisation: the schema, the first weights, and a merged model."""
    results: dict[str, Any] = {}
    for layers in ("batch", "group"):
        for norm in ("shared", "local"):
            for up in ("f32", "f16"):
                for method in ("fedavg", "fedprox", "fedhelp", "local"):
                    agreed = plan(method, up, norm, layers)
                    travels = api.schema(agreed)
                    results[f"{method} {layers} {norm} {up}"] = {
                        "schema": sha256(*travels.lines()), "tensors": len(travels.tensors),
                        "first_weights": sha256_of(start := api.first_weights(agreed)),
                    }  # fmt: skip
                    if method == "fedhelp":
                        results[f"a round {layers} {norm} {up}"] = _round(agreed, travels, start)
    for net in ("resnet20", "resnet32", "resnet56", "resnet110"):
        results[net] = sha256(*api.net_schema(net, 7, 1, "batch").lines())
    return results


def _round(agreed: Any, travels: Any, start: dict[str, Array]) -> dict[str, Any]:
    """The merged model of three transferred updates; the method decides the schema, not the merging."""
    base = {tensor.name: start[tensor.name] for tensor in travels.tensors}
    arrived, sizes = {}, set()
    for number, site in enumerate(list(SITES)[:3], 1):
        moved = {
            name: array + np.abs(numbers(array.shape, number, index))
            for index, (name, array) in enumerate(base.items())
        }
        arrived[site], data = api.travelled(agreed.wire.up, moved, travels, base)
        sizes.add(len(data))
    merged = api.merged(base, arrived, SITES, agreed.merge)
    return {"bytes": sorted(sizes), "merged_sha256": sha256(api.travelled("f32", merged, travels, base)[1])}


def _merging() -> dict[str, Any]:
    base = small()
    updates = site_updates(base)
    rules: dict[str, Any] = {}
    for rule in ("mean", "median", "trimmed"):
        for weight in ("examples", "uniform"):
            for clip in ("auto", "none"):
                text = f'[merge]\nrule = "{rule}"\nweight = "{weight}"\nclip = "{clip}"\ncap = 0.4\n'
                settings = api.plan(f'classes = ["a", "b"]\n{text}').merge
                rules[f"{rule} {weight} {clip}"] = sha256_of(api.merged(base, updates, SITES, settings))
    unusual = dict(updates)
    unusual["site-002"] = unusual["site-001"]
    unusual["site-003"] = base
    unusual["site-005"] = {name: base[name] + 100 * (array - base[name]) for name, array in unusual["site-005"].items()}
    far = {**updates, "site-005": {name: 200 * array for name, array in updates["site-005"].items()}}
    first = updates["site-001"]
    alike = {
        site: {name: first[name] + (array - base[name]) / 8 for name, array in update.items()}
        for site, update in updates.items()
    }
    opposed = {**alike, "site-004": {name: 2 * base[name] - first[name] for name in base}}
    reports = [{"site-001": [10, right], "site-002": [20, 2 * right], "site-003": [5, 1]} for right in (3, 6, 6, 5, 6)]
    weights = {
        f"{kind} {cap}": [weight.hex() for weight in api.rules.weights(list(SITES.values()), kind, cap)]
        for kind in ("examples", "uniform")
        for cap in (1.0, 0.5, 0.3, 0.2)
    }
    return {
        "rules": rules,
        "weights": weights,
        "norm_limit": api.norm_factors(base, updates),
        "suspicious": [api.suspicious(base, group) for group in (updates, unusual, far, opposed)],
        "inflated": [api.inflated({**SITES, "site-005": n}, {"site-005": r}) for n, r in ((5000, 0), (5000, 2500))],
        "stops": [api.early_stopping.has_plateaued(reports[:end], 2) for end in range(len(reports) + 1)],
    }


def _codecs() -> dict[str, Any]:
    arrays = small()
    schema = api.updates.schema_of(arrays)
    results: dict[str, Any] = {"schema": schema.lines(), "canonical": sha256(api.update_bytes(arrays))}
    for codec in ("f32", "f16", "int8-delta", "int8"):
        uneven = {name: array / 3 for name, array in arrays.items()}
        back, data = api.travelled(codec, uneven, schema, arrays)
        results[codec] = {"bytes": len(data), "wire": sha256(data), "back": sha256_of(back)}
    data_ = api.update_bytes(arrays)
    bad = {
        "cut off": data_[:-1],
        "longer": data_ + b"\0",
        "a pickle": b"\x80\x04" + data_,
        "a huge header": b"\xff" * 8 + data_[8:],
        "spelled otherwise": data_.replace(b'"dtype":', b'"dtype": ', 1),
        "NaN": data_[:-4] + b"\0\0\xc0\x7f",
        "too large": data_[:-4] + np.float32(1e6).tobytes(),
        "another name": data_.replace(b"linear.bias", b"linear.bios"),
        "another shape": data_.replace(b'"shape":[2]', b'"shape":[3]'),
        "another format": data_.replace(b'"F32"', b'"F16"', 1),
    }
    results["refused"] = {
        name: api.code_of(lambda data=data: api.read_update(data, schema)) for name, data in bad.items()
    }
    return results


def _canonical() -> dict[str, Any]:
    value = {"b": [1, 2, {"a": "~ "}], "a": True, "zz_9": 2**53 - 1, "text": '"\\/'}
    lines = [
        b'{"a":1}', b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":2}', b'{"a":1.5}', b'{"a":-1}', b'{"a":null}', b"",
        '{"a":"é"}'.encode(), b'{"A":1}', b'{"a":9007199254740992}', b"[[[[[1]]]]]", b'{"a":"\\u0041"}',
    ]  # fmt: skip
    return {
        "spelled": api.canon.encode(value).decode(),
        "codes": {line.decode("latin1"): api.code_of(lambda line=line: api.canon.decode(line)) for line in lines},
    }


def contexts() -> dict[str, dict[str, Any]]:
    """The context of one parcel of each kind."""
    public_keys = api.test_keys(1).public
    common = {"created": "2026-11-26T12:00:00Z"}
    where = {"federation": FEDERATION, "epoch": 1}
    counted = api.statement.list_digest(["x", "y"])
    who = {"sender": "site-001", "sender_key": api.sshsig.fingerprint(public_keys.sign)}
    nonce = "0f" * 16
    rest: dict[str, dict[str, Any]] = {
        "charter": {"epoch": 1, "version": 1, "previous": "0" * 64},
        "roster": {**where, "version": 3, "charter": HASH},
        "task": {**where, "round": 2, "roster": HASH, "roster_version": 3, "base": HASH},
        "update": {
            "federation": FEDERATION, "round": 2, "task": HASH, "base": HASH, **who,
            "recipients": [public_keys.recipient], "nonce": nonce, "seq": 7,
        },
        "global": {**where, "round": 2, "base": HASH, "readers": counted, "inputs": counted},
        "receipt": {**where, "sender": "coordinator", "about": HASH},
        "enrol": {"federation": FEDERATION, "nonce": nonce},
        "rotate": {"federation": FEDERATION, "sender": "site-001", "nonce": nonce, "seq": 8},
        "knowledge": {"federation": FEDERATION},
    }  # fmt: skip
    return {kind: {"kind": kind, **common, **fields} for kind, fields in rest.items()}


def _parcels() -> dict[str, Any]:
    payload = b'{"golden":"payload"}'
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, context in contexts().items():
            line = api.statement_line(context, payload)
            results[kind] = {"line": line.decode(), "name": hashlib.sha256(line).hexdigest()}
            if api.statement.payload_form(kind) == "plain":
                data = api.sealed(context, payload, [api.test_keys(1), api.test_keys(2)], Path(name))
                results[kind]["sha256"] = sha256(data)
        results["refused"] = _refused(
            api.sealed(contexts()["roster"], payload, [api.test_keys(1)], Path(name)), Path(name)
        )
    results["log"] = api.log.line_hash("0" * 64, {"seq": 1, "time": "2026-11-26T12:00:00Z", "type": "memory",
                                            "subject": "coordinator", "detail": {"a": 1}})  # fmt: skip
    return results


def _refused(content: bytes, folder: Path) -> dict[str, str]:
    """The error codes of damaged parcels."""
    armor = content[content.index(b"-----BEGIN") : content.index(b"-----END SSH SIGNATURE-----\n") + 28]
    bad = {
        "empty": b"",
        "another magic": b"fedhelp-edge/v2\n" + content[16:],
        "cut in its magic": content[:7],
        "cut in its statement": content[:60],
        "cut in its signature": content[: content.index(b"-----BEGIN") + 40],
        "cut in its payload": content[:-1],
        "a byte more": content + b"x",
        "a payload changed": content[:-2] + b"X" + content[-1:],
        "a statement changed": content.replace(b'"version":3', b'"version":4'),
        "another kind": content.replace(b'"kind":"roster"', b'"kind":"rooster"'),
        "spelled otherwise": content.replace(b'{"context":', b'{"context": '),
        "another version": content.replace(b'"v":1}', b'"v":2}'),
        "no signature": content.replace(armor, b""),
        "nine signatures": content.replace(armor, 9 * armor),
        "signed as another kind": content.replace(b"roster", b"global", 1),
    }
    path, codes = folder / "bad.fhx", {}
    for name, data in bad.items():
        path.write_bytes(data)
        codes[name] = api.code_of(lambda: api.check_parcel(path))
    return codes


def _keys() -> dict[str, Any]:
    first, second = api.test_keys(1), api.test_keys(2)
    context = {**contexts()["enrol"]}
    code = "FH1-TYCPQ-3M406-8QPJF-76ZCQ-X"
    signature = api.sshsig.sign(b"message", first.sign, "file")
    return {
        "public": [first.public.sign, first.public.recipient, api.sshsig.fingerprint(first.public.sign)],
        "signature": signature.splitlines(),
        "words": [api.key_words.of_keys(FEDERATION, first.public), api.key_words.of_keys(FEDERATION, second.public)],
        "text_words": api.key_words.of_text(first.public.sign),
        "word_list": sha256(*api.key_words.word_list()),
        "code": [
            api.enrol.read_code(" fh1 tycpq 3m4o6 8qpjf 76zcq x"),
            api.code_of(lambda: api.enrol.read_code("FH1-A")),
        ],
        "request": api.enrol.request_body(code, "Clinic A", first.public, context),
        "vouched": api.enrol.charter_proof(code, FEDERATION),
        "encrypted_size": [
            api.age.encrypted_size(n, ["age1"] * readers) for n, readers in ((0, 1), (65536, 2), (65537, 1000))
        ],
    }


def _set(count: int, seed: int) -> Any:
    draw = np.random.Generator(np.random.Philox(seed))
    return api.images(
        draw.integers(0, 256, (count, 8, 8, 3), np.uint8), [n % 3 for n in range(count)], ("train",) * count, (),
        ("a",) * count,
    )  # fmt: skip


def _draws() -> dict[str, Any]:
    stream = api.draw_stream(11, "site-001", 2, 0, 5, "private", "augment")
    pixels = np.random.Generator(np.random.Philox(3)).integers(0, 256, (6, 16, 16, 3), np.uint8)
    return {
        "integers": stream.integers(0, 2**32, 8).tolist(),
        "order": api.draw_stream(11, "site-001", 2, 0, 0, "private").permutation(12).tolist(),
        "augmented": sha256(api.augment(pixels, np.random.Generator(np.random.Philox(5)))),
        "augmented_part": sha256(api.augment(pixels[2:4], np.random.Generator(np.random.Philox(5)), slice(2, 4), 6)),
        "batches": api.batches(plan(), _set(70, 1), _set(40, 2), 2, epochs=2, every=2),
    }


def _images() -> dict[str, Any]:
    draw = np.random.Generator(np.random.Philox(17))
    count = 60
    hashes = [sha256(str(n)) for n in range(count)]
    labels = [n % 3 if n % 7 else 0 for n in range(count)]
    groups = [f"p{n % 20}" if n % 3 else "" for n in range(count)]
    no_splits, given_splits = [""] * count, ["test" if n % 5 == 0 else "train" for n in range(count)]
    drawn = api.splits.draw(hashes, labels, groups, no_splits, plan())
    centres = [("north", "south", "a very far clinic")[n % 3 if n < 40 else 0] for n in range(count)]
    image_set = api.images(draw.integers(0, 256, (count, 8, 8, 3), np.uint8), labels, drawn, groups, centres)
    answers = draw.integers(1, 9, (2, 30, 4)).astype(np.float16)
    pack = api.packs.Pack(
        draw.integers(0, 256, (30, 8, 8, 3), np.uint8),
        np.arange(30) % 4,
        ("w", "x", "y", "z"),
        ("s", "t"),
        answers / 16,
    )
    with tempfile.TemporaryDirectory() as name:
        packed = api.pack_bytes(Path(name) / "pack.safetensors", pack)
    return {
        "split": drawn,
        "split_given": api.splits.draw(hashes, labels, groups, given_splits, plan()),
        "joined": api.splits.extend(hashes, groups, no_splits, dict(zip(hashes[:40], drawn, strict=False))),
        "partitions": {
            "centers": api.dealt(image_set, "natural:centers", 11, large=1),
            "dirichlet": api.dealt(image_set, "dirichlet:0.5", 11, sites=3, large=1),
            "sizes": api.dealt(image_set, "sizes:20/6,14/4", 11, val=0.2),
        },
        "pack": sha256(packed),
        "pack_chosen": sha256(pack.subset(12, 11).pixels),
        "pack_grey": sha256(pack.resized(8, 1).pixels),
    }


def _figures() -> dict[str, Any]:
    """Rounded to nine digits: logarithms and exponentials may differ in the last ones."""
    scores = numbers((40, 3), 23, 0, low=1, high=64, over=1)
    labels = [n % 3 for n in range(40)]
    results = api.scores(scores / scores.sum(1, keepdims=True), labels)
    return {name: [None if v is None else round(v, 9) for v in figures] for name, figures in results.items()}


def _errors() -> dict[str, Any]:
    """Every code, and whether it means wrong usage."""
    return {kind.code: issubclass(kind, api.errors.UsageError) for kind in api.errors.tree() if kind.code}
