#!/bin/sh
# Two hospitals and four clinics, over the network; the coordinator works unattended.
#
#   sh play.sh IMAGES     IMAGES: folders site-1 to site-6, each with a folder of pictures for each class of plan.toml
#
# All seven computers are this one: the network is its loopback.
set -eu
images=$1
here=$(dirname "$0")
sites=${SITES:-1 2 3 4 5 6} # the first two are hospitals
export FEDHELP_PASSPHRASE_FILE=passphrase OMP_NUM_THREADS=1 FEDHELP_HOME=hub

(umask 077 && echo "correct horse battery staple anyway" >passphrase) # each would have their own, and type it
fedhelp-coordinator init --plan "$here/plan.toml"
fedhelp-coordinator serve --port 0 --json >address &
serve=$!
trap "kill $serve" EXIT
until [ -s address ]; do sleep 0.2; done
url=$(sed 's/.*"url": *"\([^"]*\)".*/\1/' address)

# Each site gets its invite by mail, joins, and says where its pictures are.
for site in $sites; do
  tier=small
  [ $site -le 2 ] && tier=large
  fedhelp-coordinator invite "Site $site" --tier $tier --out site-$site.invite
  FEDHELP_HOME=site-$site fedhelp-edge join site-$site.invite --url "$url"
done

fedhelp-coordinator open # lets in whoever had an invite, and opens the first round
fedhelp-coordinator run --every 1 &
run=$!
trap "kill $serve $run 2>/dev/null || true" EXIT

# Each site's computer; `sync --watch` would do all three by itself, once it knows the images.
for site in $sites; do
  train=train
  [ $site -le 2 ] && train=distill
  export FEDHELP_HOME=site-$site
  fedhelp-edge download
  fedhelp-edge $train "$images/site-$site"
  fedhelp-edge upload
done

wait $run # the plan has one round
FEDHELP_HOME=hub fedhelp-coordinator status
fedhelp-edge sync # the last site's
fedhelp-edge evaluate
