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
TRIALS=$(printf ,%s {local,fedavg,fedprox,fedhelp,fedmic,fedmd,mdhfl,fccl,fedgh,fedkemf,perfedavg,pfedbayes,fedsm}+training.lr={0.0003,0.001,0.003} \
  fedavg+wire.norm=local+training.lr={0.0003,0.001,0.003} fedadam+lr={0.001,0.0032,0.01} pfedme+inner={0.01,0.03,0.1} \
  scaffold+training.optimiser=sgd+training.lr={0.01,0.03,0.1})  # fedadam's is the coordinator's; the sites have 0.001
tune() {  # on a GPU
  compare "$1" "$1-trials" --seeds 9 --methods "${TRIALS:1}" --set training.precision=fp32 --device cuda "${@:2}"
  python3 ../trials.py keep "$1-trials" > "trials-$1.json"
}
best() { python3 ../trials.py best "trials-$1.json" "${@:2}"; }
FEW="local fedavg+training fedprox fedhelp"
MORE="fedavg+wire fedadam scaffold perfedavg pfedbayes fedgh mdhfl fccl fedsm fedmic fedkemf pfedme fedmd"
tune fed-isic --set rounds=5 $ISIC
tune pneumonia --set rounds=2 $XRAY
compare fed-isic ../fed-isic --seeds 0,1,2,3,4 $ISIC --methods "$(best fed-isic $FEW fedavg+wire)"
compare fed-isic ../fed-isic-start --seeds 0,1,2 $ISIC --start "$WEIGHTS/resnet20_cifar10.safetensors" --start "$WEIGHTS/resnet56_cifar10.safetensors" \
  --methods "$(best fed-isic local fedavg+training fedhelp)"
compare fed-isic ../fed-isic-methods --seeds 0,1,2 $ISIC --methods "$(best fed-isic $FEW $MORE)"
fedhelp=$(best fed-isic fedhelp)
compare fed-isic ../fed-isic-alpha --seeds 0,1,2 $ISIC \
  --methods "$fedhelp,$fedhelp+alpha=label_fit,$fedhelp+alpha_lr=0.1,$fedhelp+public_augment=false"
compare pneumonia ../pneumonia --seeds 0,1,2,3,4 $XRAY --methods "$(best pneumonia $FEW)"
compare pneumonia ../pneumonia-methods --seeds 0,1,2 $XRAY --methods "$(best pneumonia $FEW $MORE)"
