"""`serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedhelp_edge import console, shell
from fedhelp_edge.cli.options import AnyKind, EventLogFile, Model, Signer, Threads

app = shell.app()


@app.command()
def serve(
    model: Model,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 0,
    language: Annotated[
        str | None, typer.Option("--language", help="en, fr, es, pt or sw; default: the browser's.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    signer: Signer = None,
    any_kind: AnyKind = False,
    event_log: EventLogFile = None,
    threads: Threads = None,
    home: shell.Home = shell.DEFAULT_HOME,
) -> None:
    """Diagnose on a page of this computer: drop an image, see the answer and where the model looked.

    Nobody else sees the page, and nothing is stored, unless --event-log names a file. It needs no network.

    Example: fedhelp-edge serve model.onnx
    """
    import contextlib
    import webbrowser

    from fedhelp_edge.errors import UsageError
    from fedhelp_edge.infer import answer_formats, bundle
    from fedhelp_edge.infer.event_log import EventLog
    from fedhelp_edge.page import local_server, texts
    from fedhelp_edge.page.serve import DiagnosisApp
    from fedhelp_edge.page.serve_masks import MaskApp
    from fedhelp_edge.site import signer_check

    if language and language not in texts.DIAGNOSIS:
        raise UsageError(f"--language {language!r} is none of {', '.join(texts.DIAGNOSIS)}")
    loaded_model = bundle.load_any_checked(
        model,
        lambda key: signer_check.model_warning(shell.home_folder(home), key, signer),
        threads=threads,
        any_kind=any_kind,
    )
    if doubts := answer_formats.trust_warning(loaded_model):
        console.say(f"warning: {doubts}")
    events = EventLog(event_log, loaded_model) if event_log else None
    is_for_masks = isinstance(loaded_model, bundle.MaskBundle)
    page = (MaskApp if is_for_masks else DiagnosisApp)(loaded_model, language, events)
    with (
        local_server.running(page, port) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        console.say("the page is at", server.link, "only you can open it; Ctrl-C ends it")
        console.say("what was answered is logged" if events else "nothing is stored")
        console.say(answer_formats.NOTICE)
        if not no_browser:
            webbrowser.open(server.one_time_link)
        server.done.wait()
