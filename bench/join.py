"""A visitor behind a long link: from its token to its first contributed lane, against what plain TCP needs for the same bytes in the same run."""
import datetime
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/e2e"))
from harness import PROGRAM, ROOT, environment, events, kill_all, processes, spec, step_of, wait_for, workspace   # noqa: E402
from wan import Wan, inside   # noqa: E402

PORT = 7321
STEPS_AFTER = 4                          # steps with the visitor that are waited for


def seconds_of(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def first_contribution(directory):
    for log in directory.glob("log/worker-edge*.jsonl"):
        for line in log.read_text().splitlines():
            if "contributes its first lanes" in line:
                return seconds_of(json.loads(line)["@timestamp"])
    return None


def job_in(folder, hidden, optimizer, shards):
    sites = [{"name": "home", "via": "local", "ranks": 1, "ps_shards": 1}, {"name": "edge", "via": "join", "ranks": 1, "ps_shards": shards}]
    return spec(folder, sites=sites, export=None, checkpoint={"every": "100000 steps"}, coordinator={"listen": f"{Wan.HOME}:{PORT}", "address": f"{Wan.HOME}:{PORT}"},
                model={"family": "mlp", "classes": 10, "input": [1, 28, 28], "hidden": hidden},
                train={"steps": 1000000, "batch": 32, "lanes": 4, "seed": 7, "deterministic": True, "optimizer": optimizer})


def once(folder, wan, hidden, optimizer, shards):
    """One run at home, one visitor. Times in seconds."""
    elems = sum(a * b + b for a, b in zip([784, *hidden], [*hidden, 10]))
    run_dir, edge_dir = folder / "run", folder / "edge"
    folder.mkdir()

    def start(where, *args):
        return subprocess.Popen(inside(where, PROGRAM, *map(str, args)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT, start_new_session=True)

    run = start(wan.home, "run", job_in(folder, hidden, optimizer, shards), "--dir", run_dir)
    try:
        wait_for(lambda: step_of(run_dir) > 20)
        plain = wan.plain_tcp_s(4 * elems)
        before, began = wan.crossed(), time.time()
        first = step_of(run_dir)
        start(wan.edge, "join", f"{wan.HOME}:{PORT}", "--site", "edge", "--token", run_dir / "state/tokens/edge.token", "--dir", edge_dir)
        wait_for(lambda: events(run_dir, "site works"), 120)
        crossed = [b - a for a, b in zip(before, wan.crossed())]
        works = events(run_dir, "site works")
        if not works:
            raise RuntimeError("the visitor never contributed")
        wait_for(lambda: step_of(run_dir) >= works[0]["step"] + STEPS_AFTER, 300)
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        gaps = {b["step"]: b["seconds"] - a["seconds"] for a, b in zip(lines, lines[1:])}
        alone = [s for step, s in gaps.items() if step < first]
        together = [s for step, s in gaps.items() if step > works[0]["step"]]
        at = {e["event"]: seconds_of(e["time"]) - began for e in events(run_dir) if e["event"] in ("enrolled", "site joined")}
        lanes = [seconds_of(e["time"]) - began for e in events(run_dir, "view") if seconds_of(e["time"]) > began]
        return {"enrolled_s": at["enrolled"], "joined_s": at["site joined"], "lanes_s": lanes[1], "weights_mb": round(4 * elems / 1e6, 1), "plain_tcp_s": plain, "to_first_contribution_s": first_contribution(edge_dir) - began,
                "to_first_step_with_it_s": seconds_of(works[0]["time"]) - began, "mb_to_edge": round(crossed[0] / 1e6, 1), "mb_from_edge": round(crossed[1] / 1e6, 1),
                "pause_at_join_s": max(s for step, s in gaps.items() if first <= step <= works[0]["step"]), "median_step_alone_s": statistics.median(alone),
                "median_step_together_s": statistics.median(together), "longest_step_together_s": max(together)}
    finally:
        while processes(run_dir) + processes(edge_dir):
            kill_all(run_dir)
            kill_all(edge_dir)
        run.wait()


if __name__ == "__main__":
    repeats, optimizer, shards = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    hidden = [int(n) for n in sys.argv[4].split(",")]
    config = {"sgd": {"name": "sgd", "lr": 0.01}, "momentum": {"name": "sgd", "lr": 0.01, "momentum": 0.9}, "adamw": {"name": "adamw", "lr": 0.001}}[optimizer]
    rows = []
    with workspace() as directory, Wan() as wan:
        for i in range(repeats):
            rows.append(once(Path(directory) / str(i), wan, hidden, config, shards))
            print(json.dumps({k: round(v, 2) for k, v in rows[-1].items()}), file=sys.stderr, flush=True)
            if len(sys.argv) > 5:
                subprocess.run(["cp", "-r", str(Path(directory) / str(i)), sys.argv[5]])
        wait, limit = (statistics.median(r[k] for r in rows) for k in ("to_first_contribution_s", "plain_tcp_s"))
        print(json.dumps({"bench": "join", "link": "100 Mbit/s, round trip 50 ms", "optimizer": optimizer, "shards_at_visitor": shards,
                          "to_first_contribution_s": round(wait, 2), "limit_s": round(limit * 1.15 + 2, 2),
                          **{k: round(statistics.median(r[k] for r in rows), 2) for k in rows[0] if k != "to_first_contribution_s"}}))
