"""One weights_sha256 for ranks, threads, sites and launchers, at 60 steps; the two sites' checkpoints are the same bytes."""
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from harness import (ROOT, PROGRAM, complete, environment, events, finish, one_site, reference, report, run, skip, spec, test, two_sites, viaduct, workspace)

LAYOUTS = [("1 rank", one_site(1)), ("2 ranks", one_site(2)), ("3 ranks", one_site(3)), ("4 ranks", one_site(4)), ("1 rank of 2 threads", one_site(1, 2)),
           ("sites of 1 + 1", two_sites(1, 1)), ("sites of 2 + 1", two_sites(2, 1)), ("sites of 2 + 2", two_sites(2, 2))]


def same_checkpoints(directory):
    """Every step that both sites keep: the same names, the same bytes."""
    a, b = Path(directory) / "ckpt" / "onprem", Path(directory) / "ckpt" / "cloud"
    steps = {p.name for p in a.iterdir()} & {p.name for p in b.iterdir()}
    sums = [{f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((site / step).iterdir())} for step in sorted(steps) for site in (a, b)]
    return len(steps) > 0 and all(sums[i] == sums[i + 1] for i in range(0, len(sums), 2))


def mpirun(job, directory, ranks):
    env = environment(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_tcp_if_include="lo",
                      OMPI_MCA_oob_tcp_if_include="lo")
    return subprocess.run(["mpirun", "-n", str(ranks), PROGRAM, "run", job, "--dir", directory], capture_output=True, text=True, timeout=240, env=env, cwd=ROOT)


with workspace() as w:
    job = spec(w)
    wanted = reference(job)
    for name, sites in LAYOUTS:
        folder = Path(w) / name.replace(" ", "-")
        folder.mkdir()
        made = spec(folder, sites=sites)
        result = run(made, folder / "run")
        wrong = complete(folder / "run", result, wanted)
        test(f"{name}: complete, one hash", not wrong, wrong)
        if name == "sites of 2 + 2":
            test("both sites wrote the same checkpoints", same_checkpoints(folder / "run"))
            writers = {e["text"].split()[0] for e in events(folder / "run", "published")}
            test("each site's write events are in events.jsonl", len(events(folder / "run", "published")) >= 2, writers)
            r = viaduct("ckpt", "verify", folder / "run")
            test("ckpt verify finds every byte in order", r.returncode == 0, r.stderr)
            keys = report(folder / "run")
            test("the report has what the contract names", all(k in keys for k in ("name", "status", "steps", "epochs", "samples", "wall_seconds", "samples_per_second", "world",
                 "final", "weights_sha256", "state_sha256", "ledger", "restarts", "wan", "checkpoint", "export", "lineage")), keys)
    if shutil.which("mpirun"):
        folder = Path(w) / "mpi"
        folder.mkdir()
        result = mpirun(spec(folder, sites=one_site(2)), str(folder / "run"), 2)
        wrong = complete(folder / "run", result, wanted)
        test("mpirun -n 2: complete, one hash", not wrong, wrong)
    else:
        skip("mpirun -n 2: complete, one hash", "no mpirun (apt-get install openmpi-bin)")
finish()
