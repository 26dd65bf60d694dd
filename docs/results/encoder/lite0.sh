#!/usr/bin/env bash
# EfficientNet-Lite0 itself, trained further from ImageNet's weights. Two learning rates a method on skin lesions, by validation
# images and a seed that no result has. Then three seeds of each task with the better ones.
set -euo pipefail
cd "$(dirname "$0")" && . ./common.sh
fine_tune() {  # TASK, ROUNDS, SIDE, CLASSES, folder, then options
  sed "s/^name.*/name = \"$1\"/; s/^rounds.*/rounds = $2/; s/^size.*/size = $3/; s/^classes.*/classes = $4/" lite0.toml >"lite0-$1.toml"
  $RUN lab compare "lite0-$1.toml" --out "$5" --threads 1 "${@:6}" \
    --start "$WEIGHTS/efficientnet_lite0/efficientnet_lite0_imagenet.safetensors"
}
SKIN=(skin 4 64 '["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]')
fine_tune "${SKIN[@]}" lite0-tune $(isic 64) --seeds 9 \
  --methods local+training.lr=0.0003,local+training.lr=0.001,fedavg+training.lr=0.0003,fedavg+training.lr=0.001
BEST=(--seeds 0,1,2 --methods "$(python3 ../trials.py best lite0-tune local fedavg)")
fine_tune "${SKIN[@]}" ../encoder-lite0-skin $(isic 64) "${BEST[@]}"
fine_tune cells 3 32 '["RBC", "WBC", "Platelets"]' ../encoder-lite0-cells $CELLS "${BEST[@]}"
fine_tune pneumonia 4 32 '["normal", "pneumonia"]' ../encoder-lite0-pneumonia $XRAY "${BEST[@]}"  # where there is a GPU: --device cuda
