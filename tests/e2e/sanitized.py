"""Whole runs of the sanitizer builds: every process of a run under ThreadSanitizer, then under AddressSanitizer with kills. Any report fails."""
import json
import os
import subprocess
from pathlib import Path

from harness import ROOT, complete, finish, one_site, reference, spec, test, two_sites, workspace

BUILDS = [("tsan", "TSAN_OPTIONS", two_sites(2, 1, 2), None), ("tsan", "TSAN_OPTIONS", one_site(2, 2), None),
          ("asan", "ASAN_OPTIONS", two_sites(1, 1), "ps-apply:kill:20,coordinator-commit:kill:30"), ("asan", "ASAN_OPTIONS", one_site(2, 2), "worker-contribute:kill:9")]

with workspace() as w:
    job = spec(w, export={"to": ["onnx", "safetensors"], "prune": {"sparsity": 0.8, "epochs": 0.5}})
    wanted = reference(job)
    for i, (mode, variable, sites, failpoint) in enumerate(BUILDS):
        program = ROOT / "build" / mode / "viaduct"
        directory = Path(w) / f"run-{i}"
        name = f"{mode}, {len(sites)} site(s){', kills' if failpoint else ''}: complete, one hash, no finding"
        if not program.exists():
            test(name, False, f"{program} is missing: make test builds it")
            continue
        env = dict(os.environ, **{variable: f"log_path={w}/{mode}-{i}:exitcode=66"})
        if failpoint:
            env["VIADUCT_FAILPOINT"] = failpoint
        result = subprocess.run([program, "run", job, "--dir", directory, "sites=" + json.dumps(sites)], capture_output=True, text=True, timeout=240, env=env, cwd=ROOT)
        findings = "\n".join(f.read_text()[:3000] for f in Path(w).glob(f"{mode}-{i}.*"))
        wrong = complete(directory, result, wanted)
        test(name, not wrong and not findings, wrong + findings)
finish()
