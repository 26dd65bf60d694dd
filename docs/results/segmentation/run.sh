#!/usr/bin/env bash
# Nets for masks on five tasks, three seeds, nothing tuned. FEDHELP_DATA: the folder of the data sets. RUN: how the command is started.
# Where there is a GPU: DEVICE=cuda.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
RUN=${RUN:-fedhelp-edge}
mkdir -p data
python3 make_data.py data
pack() {  # PUBLIC, CLASSES: a net learns from one half of public images, and answers about the other
  [ -e "$1-pack.safetensors" ] && return
  python3 teach.py "data/$1-teacher.npz" "$2" "$1.onnx"
  $RUN knowledge build --public "data/$1-public.npz" --source "masks:$1.onnx" --out "$1-pack.safetensors"
}
pack skin lesion
pack cells cytoplasm,nucleus
compare() {  # TASK, folder, then options
  $RUN lab compare "$1.toml" --data "data/$1.npz" --out "../segmentation-$2" --seeds 0,1,2 --threads 1 --device "${DEVICE:-cpu}" "${@:3}"
}
METHODS=local,fedavg,fedprox,fedsm,fedhelp
PARTS=fedhelp+sources=none,fedhelp+lambda_b=0,fedhelp+lambda_f=0  # that it is without
SKIN="--knowledge skin-pack.safetensors"
compare lungs lungs --split natural:centers --large 1 $SKIN --methods $METHODS,$PARTS
compare cells cells --split natural:centers --large 1 $SKIN --methods $METHODS,$PARTS
compare skin skin --split natural:centers --large 2 --knowledge cells-pack.safetensors --methods $METHODS,$PARTS
compare vessels vessels --split natural:centers --large 1 $SKIN --methods $METHODS,$PARTS
compare hippocampus hippocampus --split natural:centers --large 2 --methods $METHODS,${PARTS#*,}  # no public volumes, so no sources
for task in lungs cells skin vessels hippocampus; do  # all images in one place
  compare $task $task-together --split dirichlet:1 --sites 1 --large 0 --methods local
done
