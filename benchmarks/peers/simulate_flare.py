"""The work of a folder in NVFlare's simulator: `simulate_flare.py FOLDER`.

There is a thread for each client: with fewer, it starts the clients anew at every turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import work
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    work.note(folder, "start")
    recipe = NumpyFedAvgRecipe(
        name="six",
        initial_ckpt=str(folder / "start.npy"),
        min_clients=work.SITES,
        num_rounds=work.ROUNDS,
        train_script=str(Path(__file__).with_name("flare_client.py")),
        train_args=str(folder),
    )
    recipe.execute(SimEnv(num_clients=work.SITES, num_threads=work.SITES, workspace_root=str(folder / "workspace")))
    work.note(folder, "stop")
