"""`leave`."""

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def leave(home: shell.Home = shell.DEFAULT_HOME, json: shell.AsJson = False) -> None:
    """Leave the federation. Nothing is deleted: what belongs to it, keys too, is put aside in the home folder.

    Example: fedhelp-edge leave
    """
    from fedhelp_edge.site import membership

    archive = membership.leave(shell.home_folder(home))
    if json:
        return console.print_json(kept=str(archive))
    console.show(f"left; everything of this federation is kept in {archive}")
    console.say_next("tell the coordinator, who ends your part with 'fedhelp-coordinator revoke SITE --reason left'")
    return None
