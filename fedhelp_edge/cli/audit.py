"""`audit`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def audit(
    folder: Annotated[Path, shell.named("The folder of a round that the coordinator exported.")],
    json: shell.AsJson = False,
) -> None:
    """Check a round that the coordinator handed out: every signature, every receipt, every line of the log. No key.

    Example: fedhelp-edge audit round-3
    """
    from fedhelp_edge import audit as audits

    found = audits.check(folder)
    if json:
        return console.result(
            federation=found.federation, round=found.round, merged_sha256=found.model, merged=found.merged,
            others=found.others, log={"length": found.log.length, "head": found.log.head},
        )  # fmt: skip
    console.show(
        f"federation {found.federation}, round {found.round}",
        f"model {found.model}, made of {len(found.merged)} shares",
    )
    for one in (*found.merged, *found.others):
        console.show(f"  {one['site']}  {one['share'][:16]}  {one['state']}")
    console.show(f"the log's {found.log.length} lines follow from one another; every signature and receipt holds")
    console.show("nothing is missing and nothing is added; what the sealed files hold, only a key can show")
    return None
