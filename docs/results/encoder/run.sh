#!/usr/bin/env bash
# Heads on a frozen encoder's features: four trials a method for each task, by validation images and a seed that no
# result has. Then three seeds with what was chosen.
set -euo pipefail
cd "$(dirname "$0")" && . ./common.sh
[ -e pack.safetensors ] || $RUN knowledge build --public "$FEDHELP_DATA/public/cifar10_5k.npz" --size 1000 \
  --source encoder:efficientnet_lite0_embed.onnx --source nets:resnet56@"$FEDHELP_DATA/../weights/resnet56_cifar10.safetensors" --out pack.safetensors
tune() { compare "$1" "$2/tune" --seeds 9 --methods "$TRIALS" "${@:3}"; }
final() { compare "$1" "$2" --seeds 0,1,2 --methods "$(python3 trials.py "$3")" "${@:4}"; }
TRIALS=$(python3 trials.py)
tune isic.toml isic-224 $(isic 224)  # its choices hold for the smaller sides too
for side in 32 64 128 224; do final isic.toml isic-$side isic-224/tune $(isic $side); done
tune xray.toml xray $XRAY
final xray.toml xray xray/tune $XRAY
TRIALS=${TRIALS//dimensions=64/dimensions=32}  # a site has 63 images
tune cells.toml cells $CELLS
final cells.toml cells cells/tune $CELLS
