"""`leave`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def leave(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Leave the federation. Nothing is deleted: its files and keys are moved aside in the home folder.

    Example: fedhelp-edge leave
    """
    from fedhelp_edge.site import membership

    archive = membership.leave(shell.home_folder(home))
    if json:
        return console.print_json(kept=str(archive))
    console.show(f"left the federation; its files are in {archive}")
    console.say_next(
        "tell the coordinator, who ends your membership with 'fedhelp-coordinator revoke SITE --reason left'"
    )
    return None
