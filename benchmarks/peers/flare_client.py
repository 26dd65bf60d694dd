"""A site under NVFlare's simulator, which starts this script: `flare_client.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import nvflare.client as flare
import work


def main() -> None:
    flare.init()
    site = f"site-{int(flare.get_site_name().rpartition('-')[2]):03}"
    while flare.is_running():
        message = flare.receive()
        row, count = work.clinic(Path(sys.argv[1]), site).train(message.params["numpy_key"], message.current_round + 1)
        meta = {"NUM_STEPS_CURRENT_ROUND": count}
        flare.send(flare.FLModel(params={"numpy_key": row}, params_type=message.params_type, meta=meta))


main()
