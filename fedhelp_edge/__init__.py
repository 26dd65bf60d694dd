"""Clinics and hospitals train one diagnostic model together while every image stays at home."""

import os

__version__ = "0.1.0"

# How many turns PyTorch's threads on Linux (libgomp) wait for each other before they sleep. Its own default suits a
# machine with nothing else to do: beside a busy program it costs most of the speed (docs/decisions/threads.md).
# The library reads this once, as it loads, so it stands before any import of torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
