#!/usr/bin/env bash
# Every method on Fed-ISIC19 and on pneumonia: three trials each with a seed that no result has, then runs with the best.
# FEDHELP_DATA: the folder of the data sets. RUN: how the command is started.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
RUN=${RUN:-fedhelp-edge}
DATA=${FEDHELP_DATA:?}/classification
WEIGHTS=$FEDHELP_DATA/../weights
[ -e pack.safetensors ] || { echo "first run ../encoder/run.sh, and copy its pack.safetensors and data/isic_32.npz to here"; exit 1; }
ISIC="--data isic_32.npz --split natural:centers"
XRAY="--data $DATA/pneumoniamnist.npz --split sizes:3127/374,1048/124,422/49,317/37,213/24,109/12"
compare() {  # PLAN, folder, then options
  $RUN lab compare "$1.toml" --out "$2" --large 2 --knowledge pack.safetensors --threads 1 "${@:3}"
}
tune() {  # on a GPU
  compare "$1" "$1-trials" --seeds 9 --methods "$(python3 trials.py)" --set training.precision=fp32 --device cuda "${@:2}"
  python3 trials.py keep "$1-trials" > "trials-$1.json"
}
tune fed-isic --set rounds=5 $ISIC
tune pneumonia --set rounds=2 $XRAY
compare fed-isic ../fed-isic --seeds 0,1,2,3,4 $ISIC \
  --methods "$(python3 trials.py best trials-fed-isic.json local fedavg fedprox fedhelp fedbn)"
compare fed-isic ../fed-isic-start --seeds 0,1,2 $ISIC --start "$WEIGHTS/resnet20_cifar10.safetensors" --start "$WEIGHTS/resnet56_cifar10.safetensors" \
  --methods "$(python3 trials.py best trials-fed-isic.json local fedavg fedhelp)"
compare fed-isic ../fed-isic-methods --seeds 0,1,2 $ISIC --methods "$(python3 trials.py best trials-fed-isic.json \
  local fedavg fedprox fedhelp fedbn fedadam scaffold perfedavg pfedbayes fedgh mdhfl)"
fedhelp=$(python3 trials.py best trials-fed-isic.json fedhelp)
compare fed-isic ../fed-isic-alpha --seeds 0,1,2 $ISIC \
  --methods "$fedhelp,$fedhelp+alpha=label_fit,$fedhelp+alpha_lr=0.1,$fedhelp+public_augment=false"
compare pneumonia ../pneumonia --seeds 0,1,2,3,4 $XRAY \
  --methods "$(python3 trials.py best trials-pneumonia.json local fedavg fedprox fedhelp)"
