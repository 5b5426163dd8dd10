#!/usr/bin/env bash
# Installed, and as a bundle in a root that holds glibc and nothing else. Prints TAP.
exec python3 "$(dirname "$0")/packaging.py"
