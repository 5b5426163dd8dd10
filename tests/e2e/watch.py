"""What a person watches: `top` on a terminal and without one, `logs` merged and filtered, an anomaly told when a rank stands still."""
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, environment, events, finish, logs, processes, report, spec, start, step_of, test, two_sites, viaduct, wait_for,
                     workspace)

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(words, rows, columns, until, keys, env=None):
    """Runs a program on a terminal of its own, sends keys when `until` appears; (exit code, output, settings before, after)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(slave)
    p = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=env, cwd=ROOT,
                         preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    out, sent, stop = b"", False, time.time() + 30
    os.set_blocking(master, False)
    while p.poll() is None and time.time() < stop:
        try:
            out += os.read(master, 65536)
        except (BlockingIOError, OSError):
            time.sleep(0.02)
        if not sent and until.encode() in out:
            sent = True
            if isinstance(keys, int):
                p.send_signal(keys)
            else:
                os.write(master, keys)
    if p.poll() is None:
        p.kill()
    code = p.wait()
    time.sleep(0.1)
    try:
        out += os.read(master, 65536)
    except (BlockingIOError, OSError):
        pass
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)
    return code, out.decode(errors="replace"), before, after


def widest(text):
    return max((len(ESCAPE.sub("", line)) for line in re.split(r"[\r\n]+", text)), default=0)


def stands_still(run_dir, rank, quiet_steps=64):
    """Stops a rank for a while; what was told of that step. After an anomaly none is told for 64 steps: on a crowded machine there may be one just before ours."""
    def slow():
        return [e for e in events(run_dir, "anomaly") if e["of"] == "step_seconds"]

    def silence_is_over():
        earlier = slow()
        return [earlier] if step_of(run_dir) > max((e["step"] for e in earlier), default=0) + quiet_steps + 1 else None
    for _ in range(4):
        earlier = wait_for(silence_is_over, 120)
        if not earlier:
            return []
        before, seen = len(earlier[0]), step_of(run_dir)
        os.kill(rank, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(rank, signal.SIGCONT)
        wait_for(lambda: len(slow()) > before or step_of(run_dir) > seen + 20, 60)
        new = slow()[before:]
        told = [e for e in new if e["step"] >= seen and e["value"] > 2]
        if told or not new:                   # new: another one came first, and silenced it
            return told
    return []


def running(w):
    """A run is watched while it goes, and one of its ranks stands still for a while."""
    job, run_dir = spec(w, sites=two_sites(2, 1), train={"steps": 400, "batch": 128, "lanes": 8, "seed": 7, "optimizer": {"name": "adamw", "lr": 0.003}}), w / "run"
    p = start(job, run_dir)
    ok = wait_for(lambda: step_of(run_dir) >= 60)
    test("a run goes", bool(ok), logs(run_dir))
    env = environment(LANG="C.UTF-8", TERM="xterm-256color")
    code, out, before, after = in_terminal([PROGRAM, "top", str(run_dir)], 40, 100, "q quits", b"q", env)
    text = ESCAPE.sub("", out)
    test("top shows it on a terminal", all(x in text for x in ("small", "running", "step", "loss", "computing", "between sites", "onprem", "cloud", "ranks up",
         "events")), text[-3000:])
    test("top quits on q and gives the terminal back", code == 0 and before == after and out.rstrip().endswith("\x1b[?1049l"), (code, before == after, out[-60:]))
    for name, key, wanted in (("Ctrl-C", b"\x03", 0), ("SIGTERM", signal.SIGTERM, 128 + signal.SIGTERM)):
        code, out, before, after = in_terminal([PROGRAM, "top", str(run_dir)], 24, 60, "q quits", key, env)
        test(f"and on {name}", code == wanted and before == after and "\x1b[?1049l" in out, (code, before == after))
    test("on 60 columns nothing is wider", widest(out.replace("\x1b[?1049l", "")) <= 60, widest(out))
    once = subprocess.run([PROGRAM, "top", str(run_dir), "--once"], capture_output=True, text=True, env=environment(LC_ALL="C", COLUMNS="90"), cwd=ROOT, timeout=30)
    test("top --once prints it: no control characters, ASCII for those who want it", once.returncode == 0 and once.stdout.isascii() and "\x1b" not in once.stdout
         and "computing" in once.stdout and widest(once.stdout) <= 90, once.stdout)
    stream = subprocess.Popen([PROGRAM, "top", str(run_dir), "--json"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    one = viaduct("top", run_dir, "--once", "--json")
    test("top --json --once: one object of what status --json says", one.returncode == 0 and json.loads(one.stdout)["sites"][0]["name"] == "onprem", one.stdout + one.stderr)
    plain = subprocess.Popen([PROGRAM, "top", str(run_dir)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    told = stands_still(run_dir, processes(run_dir, "worker")[0][0])
    test("a step that took very long is told with what was seen",
         bool(told) and told[0]["median"] < 1 and told[0]["z"] > 8 and "usual is" in told[0]["text"], told or events(run_dir, "anomaly") or logs(run_dir))
    out, err = p.communicate(timeout=120)
    wrong = complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err))
    test("the run completes", not wrong, wrong)
    told, _ = plain.communicate(timeout=30)
    test("without a terminal top prints lines, then how it ended", "step" in told and "completed" in told and "\x1b" not in told, told)
    told = [json.loads(line) for line in stream.communicate(timeout=30)[0].splitlines()]
    test("top --json: a line each time, then how it ended", len(told) > 1 and told[0]["status"] == "running" and told[-1]["status"] == "completed", told)
    test("no anomaly of the loss in a sound training", not [e for e in events(run_dir, "anomaly") if e["of"] == "loss"], events(run_dir, "anomaly"))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    parts = ("compute", "inside", "between", "data", "checkpoint")
    measured = [m for m in lines if all(m[f"{k}_seconds"] is not None for k in parts)]
    test("nearly every step has its split", len(measured) >= 0.95 * len(lines), f"{len(measured)} of {len(lines)}")
    wall = lines[-1]["seconds"] - lines[0]["seconds"]
    split = sum(m[f"{k}_seconds"] for m in lines[1:] for k in parts if m[f"{k}_seconds"] is not None)
    test(f"and the parts make up the wall time: {split:.2f} of {wall:.2f} s", 0.9 * wall < split < 1.1 * wall)
    test("the slowest rank is never faster than the mean", all(m[f"{k}_max_seconds"] >= m[f"{k}_seconds"] - 1e-6 for m in measured for k in parts))
    return run_dir


def read_logs(run_dir):
    def show(*words):
        return viaduct("logs", run_dir, *words)
    everything = show("--json")
    entries = [json.loads(line) for line in everything.stdout.splitlines()]
    count = sum(len(f.read_text().splitlines()) for f in (run_dir / "log").glob("*.jsonl"))
    times = [e["@timestamp"] for e in entries]
    test("logs: every line of every process, by time", everything.returncode == 0 and len(entries) == count and times == sorted(times), (len(entries), count,
         everything.stderr))
    test("logs: of many processes", len({e["service.name"] for e in entries}) >= 6, {e["service.name"] for e in entries})
    for words, wanted in ((("--who", "worker", "onprem/1"), {"worker onprem/1"}), (("--who", "worker onprem/1"), {"worker onprem/1"}),
                          (("--who", "worker"), {"worker onprem/0", "worker onprem/1", "worker cloud/0"}), (("--who=coordinator",), {"coordinator"})):
        got = {json.loads(line)["service.name"] for line in show("--json", *words).stdout.splitlines()}
        test(f"logs {' '.join(words)}", got == wanted, got)
    text = show().stdout
    test("logs: text for people", re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  info   coordinator +started", text, re.M) is not None, text[:500])
    f = run_dir / "log" / "worker-onprem-9.jsonl"
    f.write_text('{"@timestamp":"2000-01-01T00:00:00.000Z","log.level":"error","service.name":"worker onprem/9","message":"odd \\u001b[31m words"}\n{"@timestamp":"2000')
    result = show("--level", "error")
    test("logs --level, without control characters of others",
         result.stdout.startswith("2000-01-01 00:00:00.000  error  worker onprem/9") and "\x1b" not in result.stdout
         and "odd ?[31m words" in result.stdout and "info" not in result.stdout, result.stdout)
    test("a line that was cut is counted", "1 lines were cut" in result.stderr, result.stderr)
    wrong = show("--level", "loud")
    test("an unknown level: exit 2, what there is", wrong.returncode == 2 and "warn" in wrong.stderr, wrong.stderr)
    follow = subprocess.Popen([PROGRAM, "logs", str(run_dir), "-f", "--who", "worker onprem/9"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    first = follow.stdout.readline()
    with open(f, "a") as more:
        more.write('-01-02T00:00:00.000Z","log.level":"info","service.name":"worker onprem/9","message":"later"}\n')
    second = follow.stdout.readline()
    follow.send_signal(signal.SIGINT)
    follow.wait(timeout=10)
    test("logs -f goes on, and waits for a line to be whole", "odd" in first and "later" in second, (first, second))


def ended(run_dir):
    once = viaduct("top", run_dir, "--once")
    test("top of a run that has ended says how", once.returncode == 0 and "completed" in once.stdout and f"{report(run_dir)['steps']}" in once.stdout, once.stdout)
    none = viaduct("top", run_dir / "log", "--once")
    test("top of a folder that is no run: exit 4", none.returncode == 4 and "not a run directory" in none.stderr, (none.returncode, none.stderr))


def main():
    with workspace() as name:
        run_dir = running(Path(name))
        read_logs(run_dir)
        ended(run_dir)
    finish()


if __name__ == "__main__":
    sys.exit(main())
