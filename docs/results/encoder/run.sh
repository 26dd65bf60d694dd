#!/usr/bin/env bash
# Heads on a frozen encoder's features: four trials a method for each task, by validation images and a seed that no
# result has. Then three seeds with what was chosen.
set -euo pipefail
cd "$(dirname "$0")" && . ./common.sh
[ -e pack.safetensors ] || $RUN knowledge build --public "$FEDHELP_DATA/public/cifar10_5k.npz" --size 1000 \
  --source encoder:efficientnet_lite0_embed.onnx --source nets:resnet56@"$FEDHELP_DATA/../weights/resnet56_cifar10.safetensors" --out pack.safetensors
WIRE=merge.weight=method+wire.up=f16+wire.down=f16
TRIALS=$(printf ,%s {{local,fedavg}{,+training.loss=logit-adjusted},fedhelp}+training.lr={0.001,0.003,0.01,0.03} \
  fedmedclip+lr={0.00005,0.0002,0.0005}+classifier_lr=0.001+$WIRE fedmedclip+lr=0.0005+classifier_lr=0.003+$WIRE)
tune() {  # PLAN, folder, dimensions of ridge, then options
  compare "$1" "$2/tune" --seeds 9 --methods "${TRIALS:1}$(printf ,%s ridge+dimensions={48,"$3"}+logits={discriminant,scores})" "${@:4}"
}
final() {  # PLAN, folder, folder of its trials, then options
  compare "$1" "$2" --seeds 0,1,2 \
    --methods "$(python3 ../trials.py best "$3" {local,fedavg}+training.{lr,loss} fedhelp fedmedclip ridge)" "${@:4}"
}
tune isic.toml isic-224 64 $(isic 224)  # its choices hold for the smaller sides too
for side in 32 64 128 224; do final isic.toml isic-$side isic-224/tune $(isic $side); done
tune xray.toml xray 64 $XRAY
final xray.toml xray xray/tune $XRAY
tune cells.toml cells 32 $CELLS  # a site has 63 images
final cells.toml cells cells/tune $CELLS
