#!/usr/bin/env bash
# Layout and include rules, in about a second. Prints one line a finding and exits 1; prints nothing when the house is in order.
# shellcheck disable=SC2046,SC2010,SC2086
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
say() { echo "lint: $*"; bad=1; }

# ---- 1. includes go leftward only, across folders through the public header ----
declare -A left=(
    [base]=""
    [device]="base" [net]="base" [model]="base" [jobs]="base" [report]="base"
)
l1="base device net model jobs report"
for f in data engine ckpt; do left[$f]=$l1; done
l2="$l1 data engine ckpt"
for f in collectives slurm export; do left[$f]=$l2; done
l3="$l2 collectives slurm export"
left[coordinator]=$l3
left[ps]="$l3 coordinator"
left[client]="${left[ps]} ps"
left[worker]="${left[client]} client"
left[agent]="${left[client]} client"
left[cli]="${left[client]} client worker agent"
# A training process of any kind uses client/: it must not drag the built-in trainer's parts along.
left[client]=$(echo "${left[client]}" | tr ' ' '\n' | grep -vxE 'model|engine|data|jobs' | tr '\n' ' ')
# Within a layer folders do not see each other, except that ckpt, engine and data are read by the layer right of them.

folders="base device net model jobs report data engine ckpt collectives slurm export coordinator ps client worker agent cli"
for f in $folders; do
    [ -d "$f" ] || { say "folder $f is missing"; continue; }
    files=$(ls "$f"/*.[ch] 2>/dev/null) || continue
    while IFS=: read -r file _ include; do
        target=$(sed -E 's/.*"([^"]+)".*/\1/' <<<"$include")
        to=${target%%/*}
        [ "$to" = "$target" ] && { say "$file includes \"$target\": write the folder, \"$f/$target\""; continue; }
        [ "$to" = "$f" ] && continue
        grep -qw "$to" <<<"${left[$f]}" || { say "$file includes \"$target\": $f/ may not include $to/"; continue; }
        case "$target" in
            base/*|net/msg.h|"$to/$to.h"|client/viaduct.h) ;;
            *) say "$file includes \"$target\": only $to/$to.h is public" ;;
        esac
    done < <(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' $files /dev/null)
    [ -f "$f/README.md" ] || say "$f/README.md is missing"
    [ -f "$f/README.md" ] && [ "$(wc -l <"$f/README.md")" -gt 40 ] && say "$f/README.md has more than 40 lines"
done

# ---- 2. third-party headers are confined ----
confined() {   # pattern, most files allowed, name
    local n
    n=$(grep -lE "^[[:space:]]*#[[:space:]]*include[[:space:]]*<$1" $(for f in $folders; do ls "$f"/*.[ch] 2>/dev/null; done) | sort -u)
    [ "$(printf '%s' "$n" | grep -c .)" -le "$2" ] || say "$3 is included in more than $2 file(s): $(echo $n)"
}
confined 'yaml\.h' 1 libyaml
confined 'hdf5\.h' 1 HDF5
confined 'sqlite3\.h' 2 SQLite
confined '(oneapi/)?(dnnl/)?dnnl' 1 oneDNN
confined 'hwloc' 1 hwloc
confined 'mpi\.h' 1 MPI
confined 'uv\.h' 2 libuv
confined 'openssl/' 3 OpenSSL
confined 'xxhash\.h' 1 xxHash
confined 'jansson\.h' 10 jansson
confined 'zlib\.h' 2 zlib
confined 'nccl\.h' 1 NCCL

# ---- 3. headers stand alone; calls that have no place here ----
sources=$(for f in $folders; do ls "$f"/*.[ch] 2>/dev/null; done)
while read -r hit; do say "banned call: $hit"; done < <(grep -nE '\b(strcpy|strcat|sprintf|gets|alloca|system|popen|atoi|strtok)\(' $sources)
while read -r hit; do say "exit() outside cli/: $hit"; done < <(grep -nE '[^_a-z]exit\(' $(ls $sources | grep -v '^cli/') | grep -vE '_exit\(|//|\*')
while read -r hit; do say "unfinished: $hit"; done < <(grep -nE '\b(TODO|FIXME|XXX)\b' $sources)
while read -r hit; do say "decision core does I/O: $hit"; done < <(grep -nE '\b(malloc|calloc|free|open|read|write|clock_now_ms|fopen|printf|pthread_[a-z]+)\(' ps/shard*.c coordinator/core*.c coordinator/ledger.c 2>/dev/null)

# ---- 4. nothing that belongs to one machine, no binaries ----
if git rev-parse --git-dir >/dev/null 2>&1; then
    while read -r file; do say "binary or large file in git: $file"; done < <(git ls-files -z | xargs -0 -r -I{} sh -c 'test -f "{}" && { [ "$(wc -c <"{}")" -gt 400000 ] || { [ -s "{}" ] && ! grep -qI . "{}"; }; } && echo "{}"')
fi
exit $bad
