"""`invite`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="What people call the site.")],
    tier: Annotated[str, typer.Option("--tier", help="small: a clinic; large: a hospital.")],
    out: Annotated[Path | None, typer.Option("--out", help="The invite as a file.", readable=False)] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it holds.")] = 14,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Invite a site: a code to read out, a file for a stick, a picture to scan.

    Example: fedhelp-coordinator invite "Clinic A" --tier small --out clinic-a.invite
    """
    from fedhelp_edge import errors
    from server_ref import desk, invites

    if tier not in ("small", "large"):
        raise errors.Usage(f"a tier is small or large, not {tier!r}")
    with desk.opened(home) as hub, desk.writing(hub):
        made = invites.make(hub, name, tier, days)
    if out:
        invites.write(out, made)
    if json:
        return shell.result(**made.told, file=str(out) if out else None)
    shell.show(f"{made.site}  {name} ({tier})", f"code   {made.code}", f"holds  {days} days, for one site")
    if out:
        shell.show(f"file   {out}", f"QR     {out}.png")
    shell.say_next(f"on the site's PC, 'fedhelp-edge join {shell.quoted(out or made.code)}'")
    return None
