"""`inspect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedhelp_edge import shell

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
    file: Annotated[Path, shell.named("A parcel (.fhx).")],
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Say what a parcel is, who signed it, whether it is whole, and whether it may be trusted here.

    Example: fedhelp-edge inspect share.fhx
    """
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.parcel import parcel, sshsig
    from fedhelp_edge.site import folder
    from fedhelp_edge.trust import words

    try:
        seen = parcel.look(file, parcel.anyone)
    except FedhelpError as fault:
        if json:
            nothing = dict.fromkeys(("kind", "federation", "round", "sender", "recipients", "size"))
            shell.result(**nothing, whole=False, trusted=False, why=f"{fault.code}: {fault.cause}", signers=[])
            raise typer.Exit(1) from None
        raise
    said, context = seen.statement, seen.statement.context
    why = folder.judge(shell.home(home), said, seen.keys)
    signers = [
        {"key": key, "fingerprint": sshsig.fingerprint(key), "words": " ".join(words.of_text(key))} for key in seen.keys
    ]
    recipients = context.get("recipients", context["readers"]["count"] if "readers" in context else [])
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
        "size": said.size,
        "statement": said.hash,
        "created": context["created"],
    }
    if json:
        return shell.result(**facts)
    print(f"{file.name}: {_KINDS[said.kind]}")
    rows = [("whole", "yes"), ("trusted", "yes" if not why else f"no: {why}")]
    rows += [(name, str(facts[name])) for name in ("federation", "round", "sender") if facts[name] is not None]
    for signer in signers:
        rows += [("signed by", signer["fingerprint"]), ("in words", signer["words"])]
    if said.form == "age":
        count = recipients if isinstance(recipients, int) else len(recipients)
        rows.append(("encrypted", f"for {count} {'reader' if count == 1 else 'readers'}"))
    rows += [("made", context["created"]), ("size", f"{said.size:,} bytes")]
    for name, value in rows:
        print(f"  {name:<11}{value}")
    return None
