"""`serve`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedhelp_edge import console, shell

app = shell.app()


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8470,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="A TLS certificate, if no proxy has one.", readable=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="The key of the certificate.", readable=False)
    ] = None,
    metrics: shell.Metrics = None,
    log_json: shell.LogJson = False,
    home: shell.Home = shell.DEFAULT_HOME,
    json: shell.AsJson = False,
) -> None:
    """Serve sites and the dashboard over HTTP until you stop it. It needs no passphrase.

    Example: fedhelp-coordinator serve --host 0.0.0.0 --tls-cert hub.pem --tls-key hub.key
    """
    from fedhelp_edge import errors, prometheus
    from server_ref.web import process

    if bool(tls_cert) != bool(tls_key):
        raise errors.UsageError("--tls-cert and --tls-key belong together")
    metrics_address = prometheus.parse_address("--metrics", metrics) if metrics else None

    def ready(url: str, dashboard: str) -> None:
        if json:
            console.print_json(url=url, dashboard=dashboard)
        else:
            console.show(f"serving    {url}", f"dashboard  {dashboard}  (this link works once)")
        sys.stdout.flush()
        console.say_next(
            "'fedhelp-coordinator run' in another window checks and merges the updates; Ctrl-C stops serving"
        )

    process.serve(shell.home_folder(home), host, port, tls_cert, tls_key, ready, metrics_address)
