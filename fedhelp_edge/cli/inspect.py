"""`inspect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()

_KIND_NAMES = {
    "charter": "the charter of the federation",
    "roster": "the roster of all sites",
    "task": "the task of a round",
    "update": "an update of a site for a round",
    "global": "the merged model of a round",
    "receipt": "a receipt",
    "enrol": "a request to join",
    "rotate": "a change of a site's keys",
    "knowledge": "a knowledge pack: public images and the answers of foundation models",
    "encoder": "an encoder: a frozen net that turns images into features",
}


@app.command()
def inspect(
    file: Annotated[Path, shell.path_argument("A parcel (.fhx), a model (.onnx), or the folder of a kit.")],
    tripod: Annotated[
        bool, typer.Option("--tripod", help="Print the TRIPOD+AI checklist, with what a model's file says.")
    ] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Say what a parcel, a model or a kit is, who signed it, and whether it is whole and trusted here.

    Example: fedhelp-edge inspect update.fhx
    """
    from fedhelp_edge.errors import FedhelpError, UsageError
    from fedhelp_edge.parcel import kit, parcel
    from fedhelp_edge.site import signer_check

    if tripod:
        if file.suffix.lower() != ".onnx":
            raise UsageError(f"--tripod is for a model (.onnx), not for {file.name}")
        if json:
            raise UsageError("--tripod prints a checklist, which has no form in JSON", remedy="leave out --json")
        return _tripod(file)
    try:
        if file.suffix.lower() == ".onnx":
            return _model(file, shell.home_folder(home), json)
        if (file / kit.INSTALLER).exists():
            return _kit(file, shell.home_folder(home), json)
        inspected = parcel.inspect(file, parcel.any_signer)
    except FedhelpError as error:
        if json:
            unknown = dict.fromkeys(("kind", "federation", "round", "sender", "recipients", "size"))
            console.print_json(**unknown, whole=False, trusted=False, why=f"{error.code}: {error.cause}", signers=[])
            raise typer.Exit(1) from error
        raise
    statement, context = inspected.statement, inspected.statement.context
    why = signer_check.parcel_warning(shell.home_folder(home), statement, inspected.keys)
    signers = [_signer(key) for key in inspected.keys]
    recipients = context.get("recipients", [])
    readers = context["readers"]["count"] if "readers" in context else len(recipients)
    facts: dict[str, Any] = {
        "kind": statement.kind,
        "whole": True,
        "trusted": not why,
        "why": why,
        "signers": signers,
        "federation": context.get("federation"),
        "round": context.get("round"),
        "sender": context.get("sender"),
        "recipients": recipients,
        "readers": readers,
        "size": statement.size,
        "statement": statement.hash,
        "created": context["created"],
    }
    if json:
        return console.print_json(**facts)
    console.show(f"{file.name}: {_KIND_NAMES[statement.kind]}")
    rows = [("whole", "yes"), ("trusted", "yes" if not why else f"no: {why}")]
    rows += [(name, str(facts[name])) for name in ("federation", "round", "sender") if facts[name] is not None]
    for signer in signers:
        rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    if statement.form == "age":
        rows.append(("encrypted", f"for {counted(readers, 'reader')}"))
    rows += [("made", context["created"]), ("size", f"{statement.size:,} bytes")]
    _print_rows(rows)
    return None


def _model(file: Path, home: Path, json: bool) -> None:
    """Inspect a model; onnxruntime opens it only if its signer is known here."""
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.infer import bundle
    from fedhelp_edge.site import signer_check

    refused = []

    def signer_warning(key: str) -> str:
        try:
            return signer_check.model_warning(home, key, None)
        except FedhelpError as error:
            refused.append(error)
            return f"{error.code}: {error.cause}"

    model = bundle.load_any(file, signer_warning)
    parity = None if refused else model.parity()
    facts, signer = model.facts, _signer(model.signer)
    if json:
        return console.print_json(
            kind="bundle", whole=True, trusted=not model.why, why=model.why, signers=[signer],
            federation=facts.federation or None, round=facts.round, sender=None, recipients=[], size=len(model.model),
            sha256=model.sha256, name=facts.name, classes=list(facts.classes), net=facts.net,
            members=list(facts.members), precision=facts.precision, parity=parity, card=model.card,
        )  # fmt: skip
    console.show(f"{file.name}: a model: {facts.name}, round {facts.round}")
    rows = [("whole", "yes"), ("trusted", f"no: {model.why}" if model.why else "yes")]
    rows += [("federation", facts.federation)] if facts.federation else []
    rows += [("classes", ", ".join(facts.classes)), ("net", ", ".join(facts.members)), ("numbers", facts.precision)]
    rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    rows += [("answers", "as at export" if parity is not None else "not compared, because its signer is not trusted")]
    rows += [("size", f"{len(model.model):,} bytes"), ("sha256", model.sha256)]
    _print_rows(rows)
    return None


def _tripod(file: Path) -> None:
    """Print the checklist of a model, whoever signed it: nothing of it is run."""
    from export import tripod
    from fedhelp_edge.infer import bundle

    console.show(*tripod.text(bundle.load_any(file, lambda key: "").facts).split("\n"))


def _kit(file: Path, home: Path, json: bool) -> None:
    """Inspect a kit before anything of it is run. It is trusted if this site's coordinator signed it."""
    from fedhelp_edge.parcel import kit
    from fedhelp_edge.site import verified

    inspected, state = kit.inspect(file), verified.state(home)
    if not inspected.signer:
        why = "nobody signed it; compare its fingerprint with the leaflet"
    elif state is None:
        why = "this computer has joined no federation, so it does not know the signer"
    else:
        why = "" if inspected.signer == state.charter.coordinator else "the coordinator did not sign it"
    signers = [_signer(inspected.signer)] if inspected.signer else []
    if json:
        return console.print_json(
            kind="kit", whole=True, trusted=not why, why=why, signers=signers, federation=None, round=None, sender=None,
            recipients=[], size=inspected.size, fingerprint=inspected.fingerprint,
        )  # fmt: skip
    console.show(f"{file.name}: a kit to install from")
    rows = [("whole", "yes"), ("trusted", f"no: {why}" if why else "yes"), ("known by", inspected.fingerprint)]
    for signer in signers:
        rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    _print_rows([*rows, ("size", f"{inspected.size:,} bytes")])
    return None


def _signer(key: str) -> dict[str, str]:
    from fedhelp_edge.parcel import sshsig
    from fedhelp_edge.trust import key_words

    return {"key": key, "fingerprint": sshsig.fingerprint(key), "words": " ".join(key_words.of_text(key))}


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        console.show(f"  {name:<11}{value}")
