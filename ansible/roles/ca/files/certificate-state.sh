#!/usr/bin/env bash
# certificate-state.sh FOLDER CA SECONDS NAME... : exit status 0 if FOLDER/host.crt belongs to FOLDER/host.key, is signed by
# CA, is valid for so many more seconds, and is made out to every NAME. Else 1, and one line says what is amiss.
set -euo pipefail

amiss() { printf '%s\n' "$*"; exit 1; }

folder=$1 ca=$2 seconds=$3
shift 3
key=$folder/host.key certificate=$folder/host.crt

command -v openssl >/dev/null || amiss 'there is none yet'
[ -s "$key" ] || amiss 'there is no key yet'
[ -s "$certificate" ] || amiss 'there is none yet'
public=$(openssl pkey -in "$key" -pubout 2>/dev/null) || amiss 'the key cannot be read: is it PEM, and without a passphrase?'
grep -q -- '-BEGIN PRIVATE KEY-' "$key" || amiss "the key is not PKCS 8 ('openssl pkcs8 -topk8 -nocrypt' makes it so)"
certified=$(openssl x509 -in "$certificate" -noout -pubkey 2>/dev/null) || amiss 'the certificate cannot be read'
[ "$public" = "$certified" ] || amiss 'it is not the certificate of this key'
openssl verify -no_check_time -CAfile "$ca" -untrusted "$certificate" "$certificate" >/dev/null 2>&1 ||
  amiss 'it is not signed by the CA that is trusted'
openssl x509 -in "$certificate" -noout -checkend "$seconds" >/dev/null ||
  amiss "its time is over on $(openssl x509 -in "$certificate" -noout -enddate | cut -d= -f2)"
for name; do
  case $name in
    *:*) kind=-checkip ;;
    *[!0-9.]*) kind=-checkhost ;;
    *) kind=-checkip ;;
  esac
  openssl x509 -in "$certificate" -noout "$kind" "$name" | grep -q 'does match' || amiss "it is not made out to $name"
done
