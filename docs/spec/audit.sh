#!/bin/sh
# Take a parcel apart with ordinary tools: sed, awk, sha256sum, ssh-keygen and, to look inside, age.
# No part of fedhelp-edge is needed, and nothing is written but in a temporary folder.
#
#   audit.sh PARCEL ALLOWED_SIGNERS SENDER [AGE_IDENTITY_FILE]
#
# ALLOWED_SIGNERS is a file as ssh-keygen(1) describes it: one line "SENDER ssh-ed25519 AAAA..." for each key.
# Without AGE_IDENTITY_FILE the outside alone is audited. Exit code 0: all of it holds; 1: it says what does not.
set -eu
export LC_ALL=C
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
parcel=$1 signers=$2 sender=$3 identity=${4:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "NOT GOOD: $*" >&2; exit 1; }
hash_of() { sha256sum "$1" | cut -d ' ' -f 1; }
context_field() { sed -n 's/^{"context":{\(.*\)},"payload":{.*/\1/p' "$work/statement" | grep -o "\"$1\":\"[^\"]*\"" | cut -d '"' -f 4; }

# Line 1 names the format, line 2 is the statement. It ends with what it says about the payload.
[ "$(head -n 1 "$parcel" | tr -d '\0')" = fedhelp-edge/v1 ] || fail "not a parcel"
sed -n '2{p;q;}' "$parcel" | tr -d '\n' > "$work/statement"
said='.*,"payload":{"form":"\([a-z]*\)","sha256":"\([0-9a-f]*\)","size":\([0-9]*\)},"v":1}$'
form=$(sed -n "s/$said/\\1/p" "$work/statement")
hash=$(sed -n "s/$said/\\2/p" "$work/statement")
size=$(sed -n "s/$said/\\3/p" "$work/statement")
[ -n "$size" ] || fail "the statement has another form"
kind=$(context_field kind)

# The payload is the last SIZE bytes; before it stand the two lines and the signatures, and nothing else.
total=$(wc -c < "$parcel")
[ "$total" -gt "$size" ] || fail "the file is too short"
head -c $((total - size)) "$parcel" > "$work/prologue"
tail -c "$size" "$parcel" > "$work/payload"
sed -e 1,2d -e '/^-----BEGIN SSH SIGNATURE-----$/,/^-----END SSH SIGNATURE-----$/d' "$work/prologue" > "$work/rest"
[ ! -s "$work/rest" ] || fail "something stands between the signatures"
[ "$(tail -n 1 "$work/prologue")" = "-----END SSH SIGNATURE-----" ] || fail "the last signature does not end"
[ "$(hash_of "$work/payload")" = "$hash" ] || fail "the payload is not the one that was signed"
echo "payload     $size bytes, SHA-256 as the statement says"

# One of the signatures is the sender's, over the statement, for this kind of parcel.
count=$(grep -c '^-----BEGIN SSH SIGNATURE-----$' "$work/prologue") || fail "no signature"
good=
at=0
while [ "$at" -lt "$count" ]; do
    at=$((at + 1))
    awk -v at="$at" '/^-----BEGIN SSH/ { n++ } n == at { print }' "$work/prologue" > "$work/signature"
    if ssh-keygen -Y verify -f "$signers" -I "$sender" -n "$kind.v1.fedhelp-edge" -s "$work/signature" \
        < "$work/statement" > "$work/answer" 2>&1; then
        good=$at
    fi
done
[ -n "$good" ] || fail "no signature by $sender: $(cat "$work/answer")"
echo "signature   $good of $count is by $sender, for a parcel of kind $kind"
if [ "$kind" = update ]; then
    [ "$(context_field sender)" = "$sender" ] || fail "it was signed by $sender, but names another sender"
fi
sed 's/^/statement   /' "$work/statement"
echo

# Inside: one line that names the statement's context and the rest's hash, then the rest (safetensors).
if [ "$form" = age ] && [ -n "$identity" ]; then
    age -d -i "$identity" -o "$work/plain" "$work/payload" || fail "age does not open it"
    head -n 1 "$work/plain" | tr -d '\n' > "$work/inner"
    tail -n +2 "$work/plain" > "$work/body"
    sed 's/^{"context":\(.*\),"payload":{"form":.*$/\1/' "$work/statement" | tr -d '\n' > "$work/context"
    inner='^{"body_sha256":"\([0-9a-f]*\)","context_sha256":"\([0-9a-f]*\)","facts":{.*'
    [ "$(sed "s/$inner/\\1/" "$work/inner")" = "$(hash_of "$work/body")" ] || fail "the model is not the one that is named"
    [ "$(sed "s/$inner/\\2/" "$work/inner")" = "$(hash_of "$work/context")" ] || fail "it was made for another parcel"
    if [ "$kind" = global ]; then
        [ "$(context_field base)" = "$(hash_of "$work/body")" ] || fail "the model is not the one that the statement names"
    fi
    echo "inside      $(wc -c < "$work/body") bytes, SHA-256 $(hash_of "$work/body"), made for this statement"
fi
echo "GOOD"
