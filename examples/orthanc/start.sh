#!/bin/sh
# sh start.sh MODEL.onnx: an archive and a node on this computer, until Ctrl-C. README.md says what to do then.
set -eu
model=$(realpath "$1")
cd "$(dirname "$0")"
mkdir -p data
Orthanc orthanc.json >orthanc.log 2>&1 &
archive=$!
trap 'kill $archive' EXIT
fedhelp-edge pacs "$model" --listen 11112 --aet FEDHELP --send-to ORTHANC@127.0.0.1:4242
