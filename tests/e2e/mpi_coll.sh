#!/usr/bin/env bash
# In-site sums over MPI: the bits of shared memory for any number of ranks, a slow peer meets the deadline, a foreign plugin is refused. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
tree=${VIADUCT_TREE:-build/release}
driver=$tree/tests/e2e/coll_driver plugin=$tree/plugins/viaduct-mpi.so
skip() { echo "ok 1 - in-site sums over MPI # SKIP $1"; echo "1..1"; exit 0; }
command -v mpirun >/dev/null || skip "mpirun is missing: apt-get install openmpi-bin"
[ -f "$plugin" ] || skip "no MPI plugin was built: apt-get install libopenmpi-dev, then make"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
export VIADUCT_PLUGINS=$tree/plugins
n=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; sed 's/^/# /' "$work/out" | head -20; fi; }

# LANES LO HI: the gang's lanes are one node, several nodes, fewer than ranks, none.
for lanes in "8 0 8" "7 0 7" "8 1 6" "8 2 4" "8 3 3"; do
    # shellcheck disable=SC2086
    want=$($driver shm 1 $lanes 3 2>"$work/out")
    for ranks in 1 2 3; do
        # shellcheck disable=SC2086
        shm=$($driver shm $ranks $lanes 3 2>"$work/out")
        # shellcheck disable=SC2086
        got=$(timeout 60 mpirun -n $ranks "$driver" mpi $ranks $lanes 3 2>"$work/out")
        [ -n "$want" ] && [ "$got" = "$want" ] && [ "$shm" = "$want" ]
        ok $? "lanes $lanes: $ranks MPI ranks, $ranks ranks in shared memory and one rank agree on every bit"
    done
done

# Rank 1 stops for longer than the deadline: rank 0 gives up by itself, and the world ends.
! timeout 60 mpirun -n 2 "$driver" mpi 2 8 0 8 3 3000 >"$work/out" 2>&1 && grep -q "rank 0: MPI: .* slower than its deadline" "$work/out"
ok $? "a slow peer ends the gang at the deadline"

! timeout 60 mpirun -n 2 "$driver" mpi 3 8 0 8 1 >"$work/out" 2>&1 && grep -q "start as many MPI ranks as the site has" "$work/out"
ok $? "a world of another size is refused"

mkdir "$work/plugins"
python3 - "$plugin" "$tree/build_id.h" "$work/plugins/viaduct-mpi.so" <<'PY'
import re, sys
so, header, out = sys.argv[1:]
mine = re.search(r'"(\w+)"', open(header).read()).group(1).encode()
data = open(so, "rb").read()
assert mine in data
open(out, "wb").write(data.replace(mine, b"f" * len(mine)))
PY
VIADUCT_PLUGINS="$work/plugins" "$driver" mpi 1 8 0 8 1 >"$work/out" 2>&1
[ $? = 6 ] && grep -q "is of build ffff.* this program of build [0-9a-f]" "$work/out"
ok $? "a plugin of another build is refused, both builds named"
VIADUCT_PLUGINS="$work" "$driver" mpi 1 8 0 8 1 >"$work/out" 2>&1
[ $? = 4 ] && grep -q "viaduct-mpi.so" "$work/out"
ok $? "a missing plugin is named"
echo "1..$n"
