"""`invite`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The site's name, for people to read.")],
    tier: Annotated[str, typer.Option("--tier", help="small: a clinic; large: a hospital.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the invite to this file.", readable=False)] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How many days the invite is valid.")] = 14,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Invite a site: a code to read out, a file for a stick, a picture to scan.

    Example: fedhelp-coordinator invite "Clinic A" --tier small --out clinic-a.invite
    """
    from functools import partial

    from fedhelp_edge import errors
    from server_ref.admin import invites, session

    if tier not in ("small", "large"):
        raise errors.UsageError(f"a tier is small or large, not {tier!r}")
    picture = None
    precheck = partial(invites.check_target, path=out) if out else bool
    with session.unlocked_hub(home, passphrase_file, judge=False, precheck=precheck) as (hub, _):
        others = [
            other for other in invites.list_all(hub) if other["name"] == name and other["state"] in ("open", "asked")
        ]
        with hub.database.transaction():  # an invite is there with its files, or not at all
            if out:
                invites.clear_target(hub, out)
            issued = invites.issue(hub, name, tier, days)
            if out:
                picture = invites.write_files(out, issued)
    for other in others:
        console.say(
            f"warning: {other['site']} has another invite for {name!r} ({other['state']}), until {other['until']};",
            hints.with_caller_options(f"'fedhelp-coordinator invites --cancel {other['site']}' cancels it"),
        )
    if json:
        return console.print_json(
            **issued.fields, file=str(out) if out else None, picture=str(picture) if picture else None
        )
    valid = counted(days, "day")
    console.show(f"{issued.site}  {name} ({tier})", f"code   {issued.code}", f"valid  {valid}, for one site")
    if out:
        missing = f"none; to draw it: {shell.install_hint('segno')}"
        console.show(f"file   {out}", f"QR     {picture or missing}")
    console.say_next(_join_command(out, issued.code, issued.url))
    return None


def _join_command(out: Path | None, code: str, url: str) -> str:
    prefix = "on the site's PC, "
    if out:
        return f"{prefix}'fedhelp-edge join {hints.quoted(out)}'"
    if url:
        return f"{prefix}'fedhelp-edge join {code} --url {hints.quoted(url)}'"
    first = "'fedhelp-coordinator exchange DIR' writes the files for joining by code to a stick; then, "
    return f"{first}{prefix}'fedhelp-edge join {code} --via DIR'"
