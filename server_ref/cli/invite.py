"""`invite`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, hints, shell

app = shell.app()


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="What people call the site.")],
    tier: Annotated[str, typer.Option("--tier", help="small: a clinic; large: a hospital.")],
    out: Annotated[Path | None, typer.Option("--out", help="The invite as a file.", readable=False)] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it holds.")] = 14,
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
    free = partial(invites.check_free, path=out) if out else bool
    with session.working(home, passphrase_file, judge=False, before=free) as (hub, _):
        others = [one for one in invites.listed(hub) if one["name"] == name and one["state"] in ("open", "asked")]
        with hub.store.changing():  # an invite is there with its files, or not at all
            if out:
                invites.clear(hub, out)
            made = invites.make(hub, name, tier, days)
            if out:
                picture = invites.write(out, made)
    for one in others:
        console.say(
            f"warning: another invite for {name!r} is {one['state']}, of {one['site']}, until {one['until']};",
            hints.typed(f"'fedhelp-coordinator invites --cancel {one['site']}' ends it"),
        )
    if json:
        return console.result(**made.told, file=str(out) if out else None, picture=str(picture) if picture else None)
    console.show(f"{made.site}  {name} ({tier})", f"code   {made.code}", f"holds  {days} days, for one site")
    if out:
        missing = f"none; to have it drawn: {shell.remedy('segno')}"
        console.show(f"file   {out}", f"QR     {picture or missing}")
    console.say_next(_join(out, made.code, made.url))
    return None


def _join(out: Path | None, code: str, url: str) -> str:
    where = "on the site's PC, "
    if out:
        return f"{where}'fedhelp-edge join {hints.quoted(out)}'"
    if url:
        return f"{where}'fedhelp-edge join {code} --url {hints.quoted(url)}'"
    first = "'fedhelp-coordinator exchange DIR' writes to a stick what joining by code takes; then, "
    return f"{first}{where}'fedhelp-edge join {code} --via DIR'"
