"""The work of a folder in Flower's simulation, one client at a time: `simulate_flower.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import work
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

FOLDER = Path(sys.argv[1])

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    from work import clinic

    site = f"site-{int(context.node_config['partition-id']) + 1:03}"
    row, count = clinic(FOLDER, site).train(
        message.content["arrays"]["row"].numpy(), message.content["config"]["server-round"]
    )
    arrays, metrics = ArrayRecord({"row": Array(row)}), MetricRecord({"num-examples": count})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    start = ArrayRecord({"row": Array(np.load(FOLDER / "start.npy"))})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=work.SITES, min_available_nodes=work.SITES)
    strategy.start(grid, start, num_rounds=work.ROUNDS)


if __name__ == "__main__":
    work.note(FOLDER, "start")
    cores = {"client_resources": {"num_cpus": 2, "num_gpus": 0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=work.SITES, backend_config=cores)
    work.note(FOLDER, "stop")
