"""`roster`."""

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def roster(
    signers: Annotated[
        Path | None,
        typer.Option(
            "--allowed-signers", help="Write the keys to this file, for ssh-keygen -Y verify.", readable=False
        ),
    ] = None,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Show every site with its status and its last message.

    Example: fedhelp-coordinator roster --allowed-signers allowed_signers
    """
    from fedhelp_edge import files
    from fedhelp_edge.trust.round_record import allowed_signers
    from server_ref.admin import session, status

    with session.open_hub(home) as hub:
        current, sites = hub.roster, status.sites(hub)
        if signers:
            files.remove_partials(signers)
            with files.writing(signers, private=False) as file:
                file.write(allowed_signers(hub.charter, current).encode())
    if json:
        return console.print_json(version=current.version, sites=sites)
    for site in sites:
        last_news = site["last_news"] or "nothing yet"
        console.show(
            f"{site['id']}  {site['name']:<28.28}  {site['tier']:<5}  {site['status']:<9}  last news {last_news}"
        )
    number = counted(len(sites), "site")
    console.show(f"roster {current.version}, {number}, valid until {current.expires:%Y-%m-%d}")
    return None
