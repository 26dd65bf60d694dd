# The settings that all runs share. FEDHELP_DATA: the folder of the data sets. RUN: how the command is started.
export OMP_NUM_THREADS=1
DATA=${FEDHELP_DATA:?}/classification
WEIGHTS=$FEDHELP_DATA/../weights
ENCODER=$WEIGHTS/efficientnet_lite0/efficientnet_lite0_embed.onnx
RUN=${RUN:-fedhelp-edge}
XRAY="--data $DATA/pneumoniamnist.npz --split sizes:3127/374,1048/124,422/49,317/37,213/24,109/12 --large 2"
CELLS="--data $DATA/bccd_cells_32.npz --split dirichlet:0.3 --sites 5 --large 1"
isic() {  # pixels of a side
  [ -e data/isic_32.npz ] || { mkdir -p data && python3 make_data.py data; }
  echo "--data data/isic_$1.npz --split natural:centers --large 2"
}
compare() {  # plan, folder, then options
  $RUN lab compare "$1" --out "$2" --encoder "$ENCODER" --knowledge pack.safetensors --threads 1 "${@:3}"
}
