#!/bin/sh
# A clinic without any network. What travels lies on a stick, which here is the folder `stick`.
#
#   sh play.sh IMAGES     IMAGES: a folder with a folder of pictures for each class of plan.toml
#
# Both people's commands are here in the order in which they would be typed, on two computers far from each other.
set -eu
images=$1
here=$(dirname "$0")
coordinator() { FEDHELP_HOME=hub FEDHELP_PASSPHRASE_FILE=passphrase fedhelp-coordinator "$@"; }
clinic() { FEDHELP_HOME=clinic FEDHELP_PASSPHRASE_FILE=passphrase fedhelp-edge "$@"; }

mkdir stick
(umask 077 && echo "correct horse battery staple anyway" >passphrase) # each would have their own, and type it

# The coordinator makes a federation, and an invite, which goes onto the stick.
coordinator init --plan "$here/plan.toml"
coordinator invite "Clinic A" --tier small --out stick/clinic-a.invite

# First trip: the invite comes to the clinic, its request goes back. On the phone they compare eight words.
clinic join stick/clinic-a.invite --via stick
coordinator exchange stick
coordinator open
coordinator exchange stick

for round in 1 2; do
  # Second trip: orders and model come to the clinic, which trains.
  clinic download
  clinic check "$images"
  clinic train "$images"
  # Third trip: its share goes back, and is merged. The next round begins where this one ended.
  clinic upload
  coordinator exchange stick
  coordinator aggregate
  [ $round = 2 ] || coordinator open
  coordinator exchange stick
done

clinic download
clinic status
clinic evaluate
