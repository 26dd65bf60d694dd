#!/usr/bin/env bash
# Accuracy against epsilon: heads on a frozen encoder, with the noise that each budget needs. Nothing was tuned.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
DATA=${FEDHELP_DATA:?}/classification
RUN=${RUN:-fedhelp-edge}
XRAY="--data $DATA/pneumoniamnist.npz --split sizes:3127/374,1048/124,422/49,317/37,213/24,109/12"
CELLS="--data $DATA/bccd_cells_32.npz --split dirichlet:0.3 --sites 5"
noisy() {  # epsilon, and the least noise that 'plan check' names for it
  for pair in "$@"; do
    printf ",fedavg+privacy.mode=dp+privacy.epsilon=${pair%:*}+privacy.noise_multiplier=${pair#*:}"
  done
}
compare() {  # plan, folder, then options
  $RUN lab compare "$1.toml" --out "../epsilon-$2" --large 0 --threads 1 "${@:3}" \
    --encoder "$FEDHELP_DATA/../weights/efficientnet_lite0/efficientnet_lite0_embed.onnx"
}
compare xray pneumonia $XRAY --seeds 0,1,2 --methods "local,fedavg$(noisy 30:0.6 8:1.13 3:2.14)"
compare cells cells $CELLS --seeds 0,1,2 --methods "local,fedavg$(noisy 30:0.6 8:1.13)"
