#!/bin/sh
# What a codec saves, and what it costs: frontier.sh pneumoniamnist.npz FOLDER. An interrupted run continues.
set -e
here=$(dirname "$0")
lowrank="fedavg+wire.up=lowrank"
fixed="$lowrank+lowrank.rule=fixed+lowrank.rank"
methods="fedavg,fedavg+wire.up=int8-delta,$fixed=4,$lowrank,$fixed=8,$fixed=2,fedavg+wire.up=f16"
for seeds in 0 0,1 0,1,2; do # a table after each seed
  fedhelp-edge lab compare "$here/plan.toml" --data "$1" --large 0 --split sizes:3000/64,1500/64,700/32,400/32 \
    --threads 1 --seeds $seeds --methods "$methods" --out "$2"
done
python "$here/frontier.py" "$2"
