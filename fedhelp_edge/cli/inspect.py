"""`inspect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedhelp_edge import console, shell

app = shell.app()

_KINDS = {
    "charter": "the charter, which names the federation",
    "roster": "the roster of all sites",
    "task": "the order for a round",
    "update": "a share, what a site gives in a round",
    "global": "the merged model of a round",
    "receipt": "a receipt",
    "enrol": "a request to join",
    "rotate": "a change of a site's keys",
    "knowledge": "knowledge: public images and what foundation models said of them",
}


@app.command()
def inspect(
    file: Annotated[Path, shell.named("A parcel (.fhx), a model (.onnx), or the folder of a kit.")],
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Say what a parcel, a model or a kit is, who signed it, whether it is whole, and whether it may be trusted here.

    Example: fedhelp-edge inspect share.fhx
    """
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.parcel import kit, parcel
    from fedhelp_edge.site import vouch as site_vouch

    try:
        if file.suffix.lower() == ".onnx":
            return _model(file, shell.home(home), json)
        if (file / kit.INSTALLER).exists():
            return _kit(file, shell.home(home), json)
        seen = parcel.look(file, parcel.anyone)
    except FedhelpError as fault:
        if json:
            nothing = dict.fromkeys(("kind", "federation", "round", "sender", "recipients", "size"))
            console.result(**nothing, whole=False, trusted=False, why=f"{fault.code}: {fault.cause}", signers=[])
            raise typer.Exit(1) from None
        raise
    said, context = seen.statement, seen.statement.context
    why = site_vouch.judge(shell.home(home), said, seen.keys)
    signers = [_signer(key) for key in seen.keys]
    recipients = context.get("recipients", [])
    readers = context["readers"]["count"] if "readers" in context else len(recipients)
    facts: dict[str, Any] = {
        "kind": said.kind,
        "whole": True,
        "trusted": not why,
        "why": why,
        "signers": signers,
        "federation": context.get("federation"),
        "round": context.get("round"),
        "sender": context.get("sender"),
        "recipients": recipients,
        "readers": readers,
        "size": said.size,
        "statement": said.hash,
        "created": context["created"],
    }
    if json:
        return console.result(**facts)
    console.show(f"{file.name}: {_KINDS[said.kind]}")
    rows = [("whole", "yes"), ("trusted", "yes" if not why else f"no: {why}")]
    rows += [(name, str(facts[name])) for name in ("federation", "round", "sender") if facts[name] is not None]
    for signer in signers:
        rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    if said.form == "age":
        rows.append(("encrypted", f"for {readers} {'reader' if readers == 1 else 'readers'}"))
    rows += [("made", context["created"]), ("size", f"{said.size:,} bytes")]
    _print(rows)
    return None


def _model(file: Path, home: Path, json: bool) -> None:
    """A model; onnxruntime sees it only if this home does not call its signer a stranger."""
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.infer import bundle
    from fedhelp_edge.site import vouch as site_vouch

    refused = []

    def vouch(key: str) -> str:
        try:
            return site_vouch.vouch(home, key, None)
        except FedhelpError as fault:
            refused.append(fault)
            return f"{fault.code}: {fault.cause}"

    made = bundle.load(file, vouch)
    parity = None if refused else made.parity()
    said, signer = made.facts, _signer(made.signer)
    if json:
        return console.result(
            kind="bundle", whole=True, trusted=not made.why, why=made.why, signers=[signer],
            federation=said.federation or None, round=said.round, sender=None, recipients=[], size=len(made.model),
            sha256=made.sha256, name=said.name, classes=list(said.classes), net=said.net, members=list(said.members),
            precision=said.precision, parity=parity, card=made.card,
        )  # fmt: skip
    console.show(f"{file.name}: a model to diagnose with: {said.name}, round {said.round}")
    rows = [("whole", "yes"), ("trusted", f"no: {made.why}" if made.why else "yes")]
    rows += [("federation", said.federation)] if said.federation else []
    rows += [("classes", ", ".join(said.classes)), ("net", ", ".join(said.members)), ("numbers", said.precision)]
    rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    rows += [("answers", "as at export" if parity is not None else "not tried, for its signer is not trusted")]
    rows += [("size", f"{len(made.model):,} bytes"), ("sha256", made.sha256)]
    _print(rows)
    return None


def _kit(file: Path, home: Path, json: bool) -> None:
    """A kit, before anything of it is run: the coordinator of the federation that was joined may sign one."""
    from fedhelp_edge.parcel import kit
    from fedhelp_edge.site import verified

    seen, known = kit.look(file), verified.state(home)
    if not seen.signer:
        why = "nobody signed it; compare its fingerprint with the leaflet"
    elif known is None:
        why = "this computer has joined no federation, so it cannot say whose key signed"
    else:
        why = "" if seen.signer == known.charter.coordinator else "the coordinator did not sign it"
    signers = [_signer(seen.signer)] if seen.signer else []
    if json:
        return console.result(
            kind="kit", whole=True, trusted=not why, why=why, signers=signers, federation=None, round=None, sender=None,
            recipients=[], size=seen.size, fingerprint=seen.fingerprint,
        )  # fmt: skip
    console.show(f"{file.name}: a kit to install from")
    rows = [("whole", "yes"), ("trusted", f"no: {why}" if why else "yes"), ("known by", seen.fingerprint)]
    for signer in signers:
        rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    _print([*rows, ("size", f"{seen.size:,} bytes")])
    return None


def _signer(key: str) -> dict[str, str]:
    from fedhelp_edge.parcel import sshsig
    from fedhelp_edge.trust import key_words

    return {"key": key, "fingerprint": sshsig.fingerprint(key), "words": " ".join(key_words.of_text(key))}


def _print(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        console.show(f"  {name:<11}{value}")
