#!/usr/bin/env bash
# A data set that was not looked at before the recipe was written: its plan as it is but for name and classes, one run.
set -euo pipefail
cd "$(dirname "$0")" && . ./common.sh
python3 make_white_cells.py white_cells.npz
$RUN lab compare white-cells.toml --data white_cells.npz --split dirichlet:0.3 --sites 5 --large 1 --seeds 0,1,2,3,4 \
  --methods local,fedavg --threads 1 --encoder "$ENCODER" --out ../encoder-white-cells
