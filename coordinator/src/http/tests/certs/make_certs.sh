#!/bin/sh
# Makes the certificates of the tests, valid for a hundred years. Needs openssl.
set -eu
cd "$(dirname "$0")"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null; }
authority() {
    key "$1"
    openssl req -x509 -new -key "$1.key" -subj "/CN=binfer test $1" -days 36500 -out "$1.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
}
signed() { # name, authority, extensions
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=binfer test $1" |
        openssl x509 -req -CA "$2.pem" -CAkey "$2.key" -days 36500 -out "$1.pem" -extfile "$3" 2>/dev/null
}
ext=$(mktemp)
printf "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n" > "$ext"
authority ca
authority other-ca
signed server ca "$ext"
signed renewed ca "$ext"
echo "extendedKeyUsage=clientAuth" > "$ext"
signed client ca "$ext"
signed stranger other-ca "$ext"
rm "$ext" ca.key other-ca.key
