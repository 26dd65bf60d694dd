#!/usr/bin/env bash
# Heads on a frozen encoder's features: four trials a method for each task, by validation images and a seed that no
# result has. Then three seeds with what was chosen.
set -euo pipefail
cd "$(dirname "$0")" && . ./common.sh
[ -e pack.safetensors ] || $RUN knowledge build --public "$FEDHELP_DATA/public/cifar10_5k.npz" --size 1000 \
  --source "encoder:$ENCODER" --source nets:resnet56@"$WEIGHTS/resnet56_cifar10.safetensors" --out pack.safetensors
WIRE=merge.weight=method+wire.up=f16+wire.down=f16
TRIALS=$(printf ,%s {{local,fedavg}{,+training.loss=logit-adjusted},fedhelp}+training.lr={0.001,0.003,0.01,0.03} \
  fedmedclip+lr={0.00005,0.0002,0.0005}+classifier_lr=0.001+$WIRE fedmedclip+lr=0.0005+classifier_lr=0.003+$WIRE)
tune() {  # plan, dimensions of ridge, then options
  compare "$1.toml" "$1-trials" --seeds 9 "${@:3}" \
    --methods "${TRIALS:1}$(printf ,%s ridge+dimensions={48,"$2"}+logits={discriminant,scores})"
}
final() {  # plan, folder, then options
  compare "$1.toml" "../encoder-$2" --seeds 0,1,2 "${@:3}" \
    --methods "$(python3 ../trials.py best "$1-trials" {local,fedavg}+training.{lr,loss} fedhelp fedmedclip ridge)"
}
tune isic 64 $(isic 224)  # its choices hold for the smaller sides too
for side in 32 64 128 224; do final isic skin-$side $(isic $side); done
tune xray 64 $XRAY
final xray pneumonia $XRAY
tune cells 32 $CELLS  # a site has 63 images
final cells cells $CELLS
