"""Whole runs whose ranks believe to be on several hosts (tests/e2e/hosts.sh makes the trainer that says so): the same weights, also after a rank is killed."""
import json
import os
import signal
import sys
from pathlib import Path

from harness import complete, events, one_site, processes, reference, run, spec, start, step_of, two_sites, wait_for

work, ranks = Path(sys.argv[1]), int(sys.argv[3])
trainer = str(work / "trainer")


def job_in(name):
    folder = work / name
    folder.mkdir()
    return spec(folder), folder / "run"


wanted = reference(job_in("reference")[0])
for name, sites in (("one-site", one_site(ranks)), ("two-sites", two_sites(ranks, 1))):
    job, directory = job_in(name)
    result = run(job, directory, "sites=" + json.dumps(sites), "--worker", trainer)
    wrong = complete(directory, result, wanted)
    if wrong:
        sys.exit(f"{name}: {wrong}")
    if not any(b"sum over tcp" in p.read_bytes() for p in (directory / "log").glob("worker-onprem-*.jsonl")):
        sys.exit(f"{name}: no rank says that it opened links to other hosts")

job, directory = job_in("killed")
p = start(job, directory, "sites=" + json.dumps(two_sites(ranks, 1)), "--worker", trainer)
wait_for(lambda: step_of(directory) >= 20, 60)
victim = next(pid for pid, words in processes(directory, "worker") if "onprem" in words)
os.kill(victim, signal.SIGKILL)
out, err = p.communicate(timeout=120)
wrong = complete(directory, type("Result", (), {"returncode": p.returncode, "stdout": out, "stderr": err})(), wanted)
if wrong or not events(directory, "dead"):
    sys.exit(f"killed: {wrong or 'nobody died'}")
