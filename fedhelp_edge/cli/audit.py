"""`audit`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell
from fedhelp_edge.safe_text import counted

app = shell.app()


@app.command()
def audit(
    folder: Annotated[Path, shell.path_argument("The folder of a round, exported by the coordinator.")],
    json: shell.AsJson = False,
) -> None:
    """Check an exported round: every signature, every receipt and every line of the log. It needs no key.

    Example: fedhelp-edge audit round-3
    """
    from fedhelp_edge import audit as audits

    report = audits.check(folder)
    if json:
        return console.print_json(
            federation=report.federation, round=report.round, merged_sha256=report.model, merged=report.merged,
            others=report.others, log={"length": report.log.length, "head": report.log.head},
        )  # fmt: skip
    console.show(
        f"federation {report.federation}, round {report.round}",
        f"model {report.model}, made of {counted(len(report.merged), 'update')}",
    )
    for record in (*report.merged, *report.others):
        console.show(f"  {record['site']}  {record['update'][:16]}  {record['state']}")
    console.show(f"the log is one chain of {counted(report.log.length, 'line')}; every signature and receipt is valid")
    console.show("nothing is missing and nothing was added; only a key can show the content of sealed files")
    return None
