#!/usr/bin/env bash
# mpi_world: see tests/e2e/mpi_world.py
exec python3 "$(dirname "$0")/mpi_world.py" "$@"
