"""`review`."""

from typing import Annotated

import typer

from fedhelp_edge import shell

app = shell.app()


@app.command()
def review(
    site: Annotated[str, typer.Argument(help="The site whose share waits.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Let the share in.")] = False,
    refuse: Annotated[bool, typer.Option("--refuse", help="Keep it out for good.")] = False,
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Show the shares that are in quarantine, each with its reason; decide on one.

    Example: fedhelp-coordinator review site-003 --release
    """
    from fedhelp_edge import errors
    from server_ref import desk, people, rounds

    if (release and refuse) or (release or refuse) != bool(site):
        raise errors.Usage("name a site and either --release or --refuse, or nothing to see what waits")
    if not site:
        with desk.opened(home) as hub:
            waiting = people.status(hub)["quarantined"]
        if json:
            return shell.result(quarantined=waiting)
        for one in waiting:
            claimed = "" if one["examples"] is None else f"  claims {one['examples']} images"
            shell.show(*shell.told(f"{one['site']}  round {one['round']}{claimed}  ", one))
        shell.show(f"{len(waiting)} shares in quarantine")
        return None
    with desk.working(home, passphrase_file) as (hub, boss):
        told = rounds.review(hub, boss, hub.site(site).id, release=release)
    if json:
        return shell.result(**told)
    shell.show(f"{told['site']}: {told['state']}")
    return None
