#!/usr/bin/env bash
# FedMIC and MDH-FL in the settings of their own papers, as far as these are known and the data are here. Three trials each
# with a seed that no result has, then three seeds. FEDHELP_DATA: the folder of the data sets. RUN: how the command is started.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
RUN=${RUN:-fedhelp-edge}
DATA=${FEDHELP_DATA:?}
compare() {  # PLAN, folder, then options
  $RUN lab compare "$1.toml" --out "$2" --data "$DATA/classification/bccd_cells_32.npz" --threads 1 "${@:3}"
}
keep() { python3 ../trials.py keep "$1-trials" > "trials-$1.json"; }
best() { python3 ../trials.py best "trials-$1.json" "${@:2}"; }

two_nets() { compare fedmic "$1" --split "dirichlet:$2" --sites 5 --large 2 "${@:3}"; }
TRIALS=$(printf ,%s {local,fedavg,fedmic}+training.lr={0.0003,0.001,0.003})
two_nets fedmic-trials 0.3 --seeds 9 --set rounds=4 --methods "${TRIALS:1}"
keep fedmic
FEDMIC=$(best fedmic fedmic)
LOWRANK=$FEDMIC+wire.up=lowrank
METHODS=$(best fedmic local fedavg),$LOWRANK
two_nets ../own-fedmic-0.1 0.1 --seeds 0,1,2 --methods "$METHODS"
two_nets ../own-fedmic-0.3 0.3 --seeds 0,1,2 --methods "$METHODS,$LOWRANK+lowrank.rule=fixed+lowrank.rank=4,$FEDMIC"
two_nets ../own-fedmic-0.5 0.5 --seeds 0,1,2 --methods "$METHODS"
two_nets ../own-fedmic-few 0.3 --seeds 0,1,2 --methods "${METHODS#*,}" --participation 0.4

four_nets() {  # folder, part of the labels that are wrong, then options
  compare mdhfl "$1" --split sizes:260/60,260/60,260/60,260/60 --large 0 --public "$DATA/segmentation/wbc_jiangxi_120.npz" \
    --noise "symmetric:$2" "${@:3}"
}
TRIALS=$(printf ,%s {local,fedmd,mdhfl}+training.lr={0.0003,0.001,0.003})
four_nets mdhfl-trials 0.2 --seeds 9 --set rounds=3 --methods "${TRIALS:1}"
keep mdhfl
METHODS=$(best mdhfl local fedmd mdhfl)
four_nets ../own-mdhfl-0.2 0.2 --seeds 0,1,2 --methods "$METHODS,$(best mdhfl local)+training.loss=symmetric"
four_nets ../own-mdhfl-0.3 0.3 --seeds 0,1,2 --methods "$METHODS"
