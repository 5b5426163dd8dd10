"""A visitor behind a slow, long link, by the bytes that cross it: the weights once until its first contribution, and in each later step once in each direction."""
import subprocess
from pathlib import Path

from harness import PROGRAM, ROOT, environment, events, finish, kill_all, processes, skip, spec, step_of, test, wait_for, workspace
from net import reason_not
from wan import Wan, inside

PORT, HIDDEN, STEPS = 7331, [160, 128], 2    # a transfer takes longer than the patience of whoever waits for it
WEIGHTS = 4 * sum(a * b + b for a, b in zip([784, *HIDDEN], [*HIDDEN, 10]))
FRAMES = 1.06                            # headers of packets, TLS and messages
OTHER = 200_000                          # enrolment, handshakes, views; packets that were sent twice


def job_in(folder):
    sites = [{"name": "home", "via": "local", "ranks": 1, "ps_shards": 1}, {"name": "edge", "via": "join", "ranks": 1, "ps_shards": 1}]
    return spec(folder, sites=sites, export=None, checkpoint={"every": "100000 steps"}, coordinator={"listen": f"{Wan.HOME}:{PORT}", "address": f"{Wan.HOME}:{PORT}"},
                model={"family": "mlp", "classes": 10, "input": [1, 28, 28], "hidden": HIDDEN},
                train={"steps": 1000000, "batch": 32, "lanes": 4, "seed": 7, "deterministic": True, "optimizer": {"name": "adamw", "lr": 0.001}})


def visit(folder, wan):
    run_dir, edge_dir = folder / "run", folder / "edge"

    def start(where, *args):
        return subprocess.Popen(inside(where, PROGRAM, *map(str, args)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT, start_new_session=True)

    run = start(wan.home, "run", job_in(folder), "--dir", run_dir)
    try:
        wait_for(lambda: step_of(run_dir) > 20)
        before = wan.crossed()
        start(wan.edge, "join", f"{wan.HOME}:{PORT}", "--site", "edge", "--token", run_dir / "state/tokens/edge.token", "--dir", edge_dir)
        came = wait_for(lambda: events(run_dir, "site works"), 120)
        there = wan.crossed()
        down, up = there[0] - before[0], there[1] - before[1]
        test("it contributes", bool(came), events(run_dir))
        first = came[0]["step"] if came else 0
        # The upload of its first step has passed, and the download of the next weights may have begun.
        test("until then the weights crossed once, and what it contributed once", down < 1.25 * FRAMES * WEIGHTS + OTHER and up < FRAMES * WEIGHTS + OTHER,
             f"{down} bytes down and {up} up, the weights are {WEIGHTS}")
        done = wait_for(lambda: step_of(run_dir) >= first + STEPS, 120)
        after = wan.crossed()
        steps = step_of(run_dir) - first             # told when the next one's weights are there
        down, up = after[0] - there[0], after[1] - there[1]
        test("each step crosses the link once in each direction", bool(done) and down < (steps + 1) * FRAMES * WEIGHTS + OTHER and up < (steps + 0.5) * FRAMES * WEIGHTS + OTHER,
             f"{down} bytes down and {up} up in {steps} steps, the weights are {WEIGHTS}")
        views = [e["text"] for e in events(run_dir, "view")]
        test("no copy is filled over this link", not any("copying" in text or "*0 1" in text for text in views), views)
    finally:
        while processes(run_dir) + processes(edge_dir):
            kill_all(run_dir)
            kill_all(edge_dir)
        run.wait()


why = reason_not() or (None if Path("/dev/net/tun").exists() else "no /dev/net/tun")
if why:
    skip("a visitor behind a slow link", why)
else:
    with workspace() as directory, Wan(mbits=1) as link:
        visit(Path(directory), link)
finish()
