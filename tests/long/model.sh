#!/usr/bin/env bash
# The round protocol's model within its larger bounds. TAP. B: the object tree.
exec "${B:-build/release}"/tests/sim/model/model --large
