#!/bin/sh
# Build a base image from Debian 12's own Python and tag it python:3.11-slim, for `make image-check` without access to an
# image registry. Needs root, mmdebstrap, Docker and a Debian mirror; takes a minute. Copies this machine's CA certificates.
set -eu
bundle=/etc/ssl/certs/ca-certificates.crt
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3-venv \
  --customize-hook='chroot "$1" python3 -m venv /usr/local' --customize-hook="copy-in $bundle /etc/ssl/certs" bookworm - |
  docker import --change "ENV PIP_CERT=$bundle SSL_CERT_FILE=$bundle" - python:3.11-slim
