"""`pacs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli.options import AnyKind, EventLogFile, Model, Signer, Threads

if TYPE_CHECKING:
    import ssl

app = shell.app()

_AET = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")  # 1 to 16 ASCII characters without a backslash
_SEND_TO = re.compile(r"(?P<aet>[^@]+)@(?P<host>[^@]+):(?P<port>\d{1,5})")


@app.command()
def pacs(
    model: Model,
    listen: Annotated[str, typer.Option("--listen", help="[HOST:]PORT; without a host only this computer may call.")],
    send_to: Annotated[str, typer.Option("--send-to", help="The archive that gets the results: AET@HOST:PORT.")],
    aet: Annotated[str, typer.Option("--aet", help="This node's AE title.")] = "FEDHELP",
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="An AE title that may send images; default: the archive's.")
    ] = None,
    sr: Annotated[bool, typer.Option("--sr", help="Send reports alone, without heat-maps.")] = False,
    quiet: Annotated[
        float,
        typer.Option("--quiet", min=1, help="Seconds without a further image after which a series is a whole volume."),
    ] = 30.0,
    queue: Annotated[
        Path | None,
        typer.Option("--queue", help="A folder for what is due; default: in --home.", readable=False),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", help="Speak TLS in both directions, with this certificate.", readable=False),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key.", readable=False)] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Callers and archive need a certificate of this authority.", readable=False),
    ] = None,
    signer: Signer = None,
    any_kind: AnyKind = False,
    threads: Threads = None,
    event_log: EventLogFile = None,
    metrics: shell.Metrics = None,
    log_json: shell.LogJson = False,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Answer the images that an archive (PACS) sends: a DICOM node, which sends results back.

    Results are reports and heat-maps, or outlines (DICOM SEG) of a model for masks. It may be killed at any time: it
    continues where it stopped, and answers each image once. A model for volumes answers whole series.

    Example: fedhelp-edge pacs model.onnx --listen 11112 --aet FEDHELP --send-to ORTHANC@127.0.0.1:4242
    """
    from fedhelp_edge import prometheus
    from fedhelp_edge.errors import UsageError

    address = prometheus.parse_address("--listen", listen)
    metrics_address = prometheus.parse_address("--metrics", metrics) if metrics else None
    archive_parts = _SEND_TO.fullmatch(send_to)
    if not archive_parts or int(archive_parts["port"]) > 65535:
        raise UsageError(f"--send-to {send_to!r} is not AET@HOST:PORT")
    allowed = allow or [archive_parts["aet"]]
    if wrong := [title for title in (aet, archive_parts["aet"], *allowed) if not _AET.fullmatch(title)]:
        raise UsageError(f"{wrong[0]!r} is no AE title: 1 to 16 ASCII characters without a backslash")
    if bool(tls_cert) != bool(tls_key) or (tls_ca and not tls_cert):
        raise UsageError("--tls-cert and --tls-key belong together, and --tls-ca needs both")
    from fedhelp_edge import unattended
    from fedhelp_edge.data import dicom
    from fedhelp_edge.infer import answer_formats, bundle
    from fedhelp_edge.infer.event_log import EventLog
    from fedhelp_edge.pacs.node import Node, Settings
    from fedhelp_edge.pacs.queue import Queue, SeriesQueue
    from fedhelp_edge.pacs.send import Archive
    from fedhelp_edge.site import signer_check

    home_dir = shell.home_folder(home)
    loaded_model = bundle.load_any_checked(
        model, lambda key: signer_check.model_warning(home_dir, key, signer), threads=threads, any_kind=any_kind
    )
    if sr and isinstance(loaded_model, bundle.MaskBundle):
        raise UsageError("--sr is for models of classes: a model for masks sends outlines, and no heat-maps")
    if doubts := answer_formats.trust_warning(loaded_model):
        console.say(f"warning: {doubts}")
    archive = Archive(
        archive_parts["aet"], archive_parts["host"], int(archive_parts["port"]),
        _tls(False, tls_cert, tls_key, tls_ca),
    )  # fmt: skip
    settings = Settings(
        aet, address, archive, allowed, not sr, _tls(True, tls_cert, tls_key, tls_ca), metrics=metrics_address,
        events=EventLog(event_log, loaded_model) if event_log else None,
    )  # fmt: skip
    place = queue or home_dir / "pacs", loaded_model.sha256
    due = SeriesQueue(*place, quiet, dicom.stated_count) if loaded_model.facts.image.is_volume else Queue(*place)
    node = Node(loaded_model, due, settings, console.say)

    def say_started(address: tuple[str, int]) -> None:
        console.say(f"{aet} listens on {address[0]}:{address[1]}; Ctrl-C ends it, and nothing is lost")
        console.say(answer_formats.NOTICE)

    with unattended.exit_on_sigterm():
        try:
            node.run(say_started)
        except KeyboardInterrupt:
            console.say("the node has ended; start it again to continue")


def _tls(callers: bool, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """The context for callers, or for the archive."""
    if not cert:
        return None
    import ssl

    purpose = ssl.Purpose.CLIENT_AUTH if callers else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=ca)
    context.load_cert_chain(cert, key)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
