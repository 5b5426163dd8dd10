#!/usr/bin/env bash
# alone: it asks make to install and to bundle the program that the others run
# Installed, and as a bundle in a root that holds glibc and nothing else. Prints TAP.
exec python3 "$(dirname "$0")/packaging.py"
