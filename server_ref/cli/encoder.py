"""`encoder publish`."""

from pathlib import Path
from typing import Annotated

from fedhelp_edge import console, shell

app = shell.app(no_args_is_help=True, help="The plan's encoder: a frozen net that turns images into features.")


@app.callback()
def encoder() -> None:
    pass


@app.command()
def publish(
    file: Annotated[Path, shell.path_argument("The encoder that the plan names, an ONNX file.")],
    home: shell.Home = shell.DEFAULT_HOME,
    passphrase_file: shell.PassphraseFile = None,
    json: shell.AsJson = False,
) -> None:
    """Publish the plan's encoder to the sites. Each fetches it once. No round opens before.

    Example: fedhelp-coordinator encoder publish encoder.onnx
    """
    from fedhelp_edge import files
    from fedhelp_edge.encoder import onnx_file
    from server_ref.admin import session

    opened = onnx_file.read(file)
    with session.unlocked_hub(home, passphrase_file) as (hub, coordinator_keys), files.reading(file) as body:
        if hub.plan.nets.encoder:
            onnx_file.check_plan(opened, hub.plan)
        statement = hub.publish_encoder(coordinator_keys, body)
    if json:
        return console.print_json(sha256=statement.sha256, bytes=statement.size)
    console.show(
        f"{hub.plan.nets.encoder}: {statement.size / 1e6:.1f} MB; every site fetches it with its next download"
    )
    return None
