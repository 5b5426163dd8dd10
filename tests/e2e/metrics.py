"""Metrics: clean by promtool, scraped by a real Prometheus over a kill of the coordinator and over TLS; alert rules and dashboard hold together with them."""
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness import (ROOT, environment, events, finish, logs, one_site, processes, report, run, skip, spec, start, step_of, test, two_sites, viaduct, wait_for,
                     workspace)
from shippers import check_shippers

MONITORING = ROOT / "report" / "monitoring"
LONG = {"steps": 1000000, "batch": 128, "lanes": 8, "seed": 7, "optimizer": {"name": "adamw", "lr": 0.001}}


def promtool(*words, text=None):
    return subprocess.run(["promtool", *map(str, words)], input=text, capture_output=True, text=True, check=False, cwd=ROOT)


# ---- rules and dashboard ----
def expressions():
    """Every query of the dashboard, with its variables filled in."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = [a["expr"] for a in board["annotations"]["list"]] + [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    return board, [e.replace("$__rate_interval", "30s").replace("$run", ".*") for e in found]


def rules(w):
    for words in (("check", "rules", MONITORING / "alerts.yml"), ("test", "rules", ROOT / "tests/fixtures/monitoring/alerts_test.yml"),
                  ("check", "config", MONITORING / "prometheus.yml")):
        r = promtool(*words)
        test(f"promtool {words[0]} {words[1]}", r.returncode == 0, r.stdout + r.stderr)
    alerts = set(re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
    text = (ROOT / "tests/fixtures/monitoring/alerts_test.yml").read_text()
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts|alertname: (\w+), exp_alerts", text))
    silent = set(re.findall(r"alertname: (\w+)\}", text))
    fires = {a or b for a, b in fires}
    test(f"each of {len(alerts)} alerts has a case that fires and one that does not", alerts == fires and alerts == silent and len(alerts) > 8,
         (alerts - fires, alerts - silent))
    board, exprs = expressions()
    recording = Path(w) / "dashboard.yml"
    recording.write_text(json.dumps({"groups": [{"name": "d", "rules": [{"record": f"d:{i}", "expr": e} for i, e in enumerate(exprs)]}]}))
    r = promtool("check", "rules", recording)
    test(f"the {len(exprs)} queries of the dashboard are valid", r.returncode == 0 and len(exprs) > 30, r.stdout + r.stderr)
    names = [v["name"] for v in board["templating"]["list"]]
    ids = [p["id"] for p in board["panels"]]
    rows = [p["title"] for p in board["panels"] if p["type"] == "row"]
    wide = {p["gridPos"]["y"]: sum(q["gridPos"]["w"] for q in board["panels"] if q["gridPos"]["y"] == p["gridPos"]["y"]) for p in board["panels"]}
    sources = {json.dumps(p["datasource"]["uid"]) for p in board["panels"] if p["type"] != "row"}
    test("the dashboard: a data source to choose, a run to choose, whole rows", names == ["datasource", "run"] and board["schemaVersion"] >= 39 and len(rows) == 6
         and sources == {'"${datasource}"'} and len(set(ids)) == len(ids) and set(wide.values()) == {24}, (names, rows, wide, sources))


# ---- one look ----
def get(url, context=None, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10, context=context) as r:
            return r.status, r.headers["Content-Type"], r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers["Content-Type"], e.read().decode()


def url_of(run_dir):
    r = viaduct("status", run_dir, "--json")
    return json.loads(r.stdout).get("metrics") if r.returncode == 0 else None


def families(text):
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
    types = dict(re.findall(r"^# TYPE (\S+) (.*)$", text, re.M))
    return {n: (types.get(n), h) for n, h in helps.items()}


def look(run_dir, url):
    status, kind, text = get(url)
    r = promtool("check", "metrics", text=text)
    test("the page is clean", status == 200 and kind.startswith("text/plain; version=0.0.4") and r.returncode == 0 and not r.stdout + r.stderr,
         (status, kind, r.stdout, r.stderr, text[-500:]))
    shown = viaduct("status", run_dir).stdout
    test("status says where it is", f"metrics at {url}" in shown and url.startswith("http://127.0.0.1:"), shown)
    there = families(text)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\| (.*) \|$", (ROOT / "docs/manual/monitoring.md").read_text(), re.M)
    test(f"docs/manual/monitoring.md tells the {len(rows)} metrics that there are", {n: (t, h) for n, t, _, h in rows} == there,
         set((n, t, h) for n, t, _, h in rows) ^ set((n, t, h) for n, (t, h) in there.items()))
    labels = {}
    for name, inside in re.findall(r"^(\w+)\{([^}]*)\}", text, re.M):
        labels.setdefault(re.sub(r"_(bucket|sum|count)$", "", name), set()).update(re.findall(r'(\w+)="', inside))
    wrong = [(n, label, labels.get(n)) for n, _, label, _ in rows if labels.get(n) and labels[n] - {"run", "le"} != set(filter(None, label.strip().split(", ")))]
    test("and their labels", not wrong, wrong)
    _, exprs = expressions()
    used = set(re.findall(r"\bviaduct_\w+", " ".join(exprs) + re.sub(r"(?m)^\s*#.*|viaduct (top|logs|status|run)|summary:.*|description:.*", "",
               (MONITORING / "alerts.yml").read_text())))
    known = set(there) | {f"{n}_{s}" for n, (t, _) in there.items() if t == "histogram" for s in ("bucket", "sum", "count")}
    test("dashboard and alerts use metrics that are there", used and used <= known, used - known)
    status, kind, openmetrics = get(url, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    test("OpenMetrics for those who ask for it", status == 200 and kind.startswith("application/openmetrics-text; version=1.0.0") and openmetrics.endswith("# EOF\n"), kind)
    base = url.removesuffix("/metrics")
    seen = [get(f"{base}/healthz")[0::2], get(f"{base}/")[0], get(url, Host="rebound.example.org")[0]]
    test("healthz; no other page; no other host's name", seen == [(200, "running\n"), 404, 403], seen)
    return there


def raw(port, text):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(text)
        return s.recv(100)


def held(run_dir, url):
    """200 that say nothing keep neither the scraper out nor the run from training."""
    port, before = int(url.split(":")[2].split("/")[0]), step_of(run_dir)
    test("rubbish is refused", raw(port, b"\x16\x03\x01\r\n").startswith(b"HTTP/1.1 400") and raw(port, b"DELETE /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").
         startswith(b"HTTP/1.1 405"))
    idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(200)]
    for s in idle[::2]:
        try:
            s.send(b"GET /met")
        except OSError:
            pass                                             # crowded out already
    test("200 idle connections: metrics are still read", get(url)[0] == 200)
    test("and steps are trained", bool(wait_for(lambda: step_of(run_dir) > before + 5)), logs(run_dir))
    for s in idle:
        s.close()


# ---- a real Prometheus ----
class Prometheus:
    def __init__(self, w, jobs):
        self.dir = Path(w) / "prometheus"
        self.dir.mkdir()
        shutil.copy(MONITORING / "alerts.yml", self.dir)
        config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}, "rule_files": ["alerts.yml"],
                  "scrape_configs": jobs}
        (self.dir / "p.yml").write_text(json.dumps(config))
        self.log = open(self.dir / "log", "w")
        self.process = subprocess.Popen(["prometheus", f"--config.file={self.dir}/p.yml", f"--storage.tsdb.path={self.dir}/data",
                                         "--web.listen-address=127.0.0.1:0"], stdout=self.log, stderr=self.log, cwd=self.dir, env=environment())
        found = wait_for(lambda: re.search(r'msg="Listening on" address=127.0.0.1:([1-9][0-9]*)', self.tail()), 60)
        self.port = int(found[1]) if found else 0

    def api(self, what, **words):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}", timeout=10) as r:
                return json.loads(r.read())["data"]
        except (OSError, ValueError) as e:
            return {"result": [], "error": getattr(e, "reason", None) or str(e)}

    def query(self, expr):
        """{labels' values that tell: number}; one without labels of its own is under ''."""
        own = ("__name__", "instance", "job", "run")
        return {",".join(v for k, v in sorted(r["metric"].items()) if k not in own): float(r["value"][1]) for r in self.api("query", query=expr)["result"]}

    def value(self, expr):
        return self.query(expr).get("", -1.0)

    def tail(self):
        return (self.dir / "log").read_text()[-4000:]

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()


def without_values(p, exprs):
    """Queries that have none yet; those of what may never happen or has not happened yet are left out."""
    return [e for e in exprs if "> 0" not in e and "checkpoint" not in e and not p.api("query", query=e)["result"]]


def scraped(p):
    ok = wait_for(lambda: p.value('viaduct_step{job="plain"}') > 0 and p.value('up{job="plain"}') == 1, 90)
    test("Prometheus scrapes the run that RUN/state/metrics.json names", bool(ok), p.tail())
    first = p.value('viaduct_step{job="plain"}')
    test("the step rises", bool(wait_for(lambda: p.value('viaduct_step{job="plain"}') > first + 3)), (first, p.tail()))
    up = wait_for(lambda: all(p.query(f'{x}{{job="plain"}}') == {"onprem": 1.0, "cloud": 1.0} for x in ("viaduct_site_up", "viaduct_ranks", "viaduct_ranks_wanted")))
    test("both sites are up, with their ranks", bool(up), (p.query("viaduct_site_up"), p.query("viaduct_ranks")))
    rising = wait_for(lambda: set(p.query('rate(viaduct_wan_sent_bytes_total{job="plain"}[1m]) > 0')) == {"onprem", "cloud"} and
                      p.value('rate(viaduct_samples_total{job="plain"}[1m])') > 0)
    test("samples per second, and each site's bytes", bool(rising), (p.query("viaduct_wan_sent_bytes_total"), p.value("viaduct_samples_total")))
    healthy = wait_for(lambda: [r["health"] for g in p.api("rules").get("groups", []) for r in g["rules"]] == ["ok"] * 11)
    test("the alert rules are evaluated", bool(healthy), p.api("rules"))
    _, exprs = expressions()
    failed = [e for e in exprs if "error" in p.api("query", query=e)]
    test("every query of the dashboard is answered", not failed, failed)
    test("and has values", bool(wait_for(lambda: not without_values(p, exprs))), without_values(p, exprs))
    firing = [a for a in p.api("alerts").get("alerts", []) if a["state"] == "firing" and a["labels"]["alertname"] != "ViaductAnomaly"]   # a crowded machine may have one
    test("no alert", not firing, firing)


def killed(p, run_dir, url):
    """The next coordinator shows them at the same place; counters begin again, as Prometheus wants it."""
    before, began = step_of(run_dir), p.value('viaduct_start_time_seconds{job="plain"}')
    pid = processes(run_dir, "coordinator")[0][0]
    os.kill(pid, signal.SIGKILL)
    ok = wait_for(lambda: p.value('viaduct_start_time_seconds{job="plain"}') > began and p.value('up{job="plain"}') == 1, 90)
    test("after kill -9 of the coordinator the scrape recovers", bool(ok), (p.query("up"), p.tail(), logs(run_dir)))
    test("at the same place", url_of(run_dir) == url, (url, url_of(run_dir)))
    test("the step goes on", bool(wait_for(lambda: p.value('viaduct_step{job="plain"}') > before)), (before, p.value("viaduct_step")))
    resets = wait_for(lambda: p.value('viaduct_steps_total{job="plain"}') > 0 and p.value('resets(viaduct_steps_total{job="plain"}[5m])') == 1)
    test("counters began again, once", resets and p.value('viaduct_steps_total{job="plain"} < viaduct_step{job="plain"}') > 0, (resets, p.query("viaduct_steps_total")))
    count = p.query('viaduct_restarts_total{job="plain"}')
    test("its restart is counted", count.get("coordinator") == 1, count)


def rolled_back(p, run_dir):
    """Both copies of a shard gone: the step falls, what counts does not."""
    wait_for(lambda: p.value('viaduct_checkpoint_step{job="plain"}') > 0)
    before = p.value('viaduct_steps_total{job="plain"}')
    for pid, _words in processes(run_dir, "ps"):
        os.kill(pid, signal.SIGKILL)
    ok = wait_for(lambda: p.value('viaduct_rollbacks_total{job="plain"}') == 1 and p.value('viaduct_generation{job="plain"}') >= 2, 90)
    test("a rollback is counted", bool(ok) and p.value('viaduct_lost_steps_total{job="plain"}') >= 0, (p.query("viaduct_rollbacks_total"), logs(run_dir)))
    on = wait_for(lambda: p.value('viaduct_steps_total{job="plain"}') > before and p.query('viaduct_restarts_total{job="plain"}').get("ps", 0) >= 2)
    test("steps count on over it", bool(on) and p.value('resets(viaduct_steps_total{job="plain"}[5m])') == 1, (before, p.query("viaduct_steps_total"), logs(run_dir)))


def agent_gone(process, run_dir, url):
    """With `viaduct run` stopped, nobody starts the agent again."""
    def up():
        return re.findall(r'^viaduct_site_up\{run="small",site="(\w+)"\} (\d)', get(url)[2], re.M)
    pid = next(pid for pid, words in processes(run_dir, "agent") if "cloud" in words)
    process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    gone = wait_for(lambda: up() == [("onprem", "1"), ("cloud", "0")])
    process.send_signal(signal.SIGCONT)
    back = wait_for(lambda: up() == [("onprem", "1"), ("cloud", "1")])
    test("a site whose agent is gone is down, and up when it is back", bool(gone) and bool(back), (gone, back, up(), logs(run_dir)))


# ---- TLS ----
def viewer(run_dir, name="viewer-scraper", verify=True):
    tls = run_dir / "state" / "tls"
    c = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    c.check_hostname = verify
    if name:
        c.load_cert_chain(tls / f"{name}.pem", tls / f"{name}.key")
    return c


def over_tls(run_dir, port, name, server_name="viaduct-metrics"):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s, viewer(run_dir, name).wrap_socket(s, server_hostname=server_name) as t:
            t.sendall(b"GET /metrics HTTP/1.1\r\nHost: head.example.org\r\n\r\n")
            answer = b""
            while chunk := t.recv(65536):
                answer += chunk
            return answer
    except OSError as e:
        return str(e).encode()


def remote(p, w, taken):
    job, run_dir = spec(w, sites=one_site(1), train=LONG, name="remote", coordinator={"listen": "127.0.0.1:0", "metrics": f"0.0.0.0:{taken}"}), Path(w) / "remote"
    process = start(job, run_dir)
    url = wait_for(lambda: step_of(run_dir) > 3 and url_of(run_dir))
    said = events(run_dir, "metrics")
    port = int((url or ":0/").split(":")[-1].split("/")[0])
    test("a port that another run has stops nothing, and is told", bool(url) and url.startswith("https://0.0.0.0:") and port != taken and len(said) == 1
         and str(taken) in said[0]["text"] and url in said[0]["text"], (url, said, logs(run_dir)))
    answer = over_tls(run_dir, port, "viewer-scraper")
    test("off-host: TLS with the scraper's certificate", answer.startswith(b"HTTP/1.1 200 ") and b'viaduct_step{run="remote"}' in answer, answer[:300])
    answer = over_tls(run_dir, port, None)
    test("without a certificate it is refused", b"viaduct_" not in answer and b"HTTP" not in answer, answer[:300])
    answer = over_tls(run_dir, port, "worker-onprem")
    test("with a worker's it is 403", answer.startswith(b"HTTP/1.1 403 "), answer[:300])
    answer = over_tls(run_dir, port, "viewer-scraper", "example.org")
    test("the server is known by its name", b"mismatch" in answer.lower(), answer[:300])
    try:
        answer = raw(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    except OSError:
        answer = b""
    test("plain HTTP gets nothing there", b"HTTP" not in answer, answer)
    (Path(w) / "tls.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"]}]))
    return process, run_dir


def no_link(run_dir):
    """Its certificate opens no link of the run, whatever it says it is."""
    fake = run_dir.parent / "fake"
    shutil.copytree(run_dir, fake, ignore=shutil.ignore_patterns("ckpt", "export", "tb"))
    for suffix in ("pem", "key"):
        shutil.copy(fake / "state/tls" / f"viewer-scraper.{suffix}", fake / "state/tls" / f"worker-onprem.{suffix}")
    address = next(x for x in (run_dir / "state/coordinator.addr").read_text().splitlines() if x.startswith("tls:"))
    (fake / "state/coordinator.addr").write_text(address + "\n")
    r = viaduct("worker", "--run", fake, "--site", "onprem", "--rank", "0", "--incarnation", "9", timeout=30)
    test("a viewer's certificate opens no link", r.returncode == 5 and "certificate" in r.stderr, (r.returncode, r.stderr))


def ended(process, run_dir):
    viaduct("stop", run_dir)
    process.communicate(timeout=60)
    text = (run_dir / "metrics.prom").read_text() if (run_dir / "metrics.prom").exists() else ""
    r = promtool("check", "metrics", text=text)
    test("a stopped run is scraped no more, and leaves its last values", not (run_dir / "state/metrics.json").exists() and r.returncode == 0
         and 'phase="done"} 1' in text and f'viaduct_step{{run="small"}} {report(run_dir).get("steps")}\n' in text, (r.stderr, text[:600]))


def failed(w):
    """A loss that is not finite ends a run: its last values say so, and its place stays, so that Prometheus finds nobody there."""
    hot = dict(LONG, optimizer={"name": "sgd", "lr": 1e6})
    job, run_dir = spec(w, sites=one_site(1), train=hot, name="hot", coordinator={"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"}), Path(w) / "hot"
    result = run(job, run_dir)
    text = (run_dir / "metrics.prom").read_text() if (run_dir / "metrics.prom").exists() else ""
    test("a failed run keeps its place and says failed", result.returncode == 3 and "not finite" in result.stderr and 'phase="failed"} 1' in text
         and (run_dir / "state/metrics.json").exists(), (result.returncode, result.stderr[-500:], text[:600]))


def main():
    missing = [x for x in ("prometheus", "promtool") if not shutil.which(x)]
    with workspace() as w:
        if missing:
            skip("metrics and a real Prometheus", f"{missing[0]} is not installed (Debian: prometheus)")
            finish()
        rules(w)
        job = spec(w, sites=two_sites(1, 1), train=LONG, coordinator={"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"})
        run_dir = Path(w) / "run"
        process = start(job, run_dir)
        url = wait_for(lambda: step_of(run_dir) >= 25 and url_of(run_dir))
        if not test("a run shows metrics", bool(url), logs(run_dir)):
            finish()
        tls = Path(w) / "remote" / "state" / "tls"
        p = Prometheus(w, [
            {"job_name": "plain", "file_sd_configs": [{"files": [str(run_dir / "state/metrics.json")], "refresh_interval": "1s"}]},
            {"job_name": "tls", "scheme": "https", "file_sd_configs": [{"files": [f"{w}/tls.json"], "refresh_interval": "1s"}],
             "tls_config": {"ca_file": str(tls / "ca.pem"), "cert_file": str(tls / "viewer-scraper.pem"), "key_file": str(tls / "viewer-scraper.key"),
                            "server_name": "viaduct-metrics"}}])
        other, other_dir = remote(p, w, int(url.split(":")[2].split("/")[0]))
        try:
            look(run_dir, url)
            scraped(p)
            killed(p, run_dir, url)
            rolled_back(p, run_dir)
            agent_gone(process, run_dir, url)
            held(run_dir, url)
            test("Prometheus scrapes over TLS", bool(wait_for(lambda: p.value('up{job="tls"}') == 1 and p.value('viaduct_step{job="tls"}') > 0, 60)),
                 (p.query("up"), p.api("targets")))
            no_link(other_dir)
        finally:
            p.close()
            viaduct("stop", other_dir)
            other.communicate(timeout=60)
        ended(process, run_dir)
        failed(w)
        check_shippers(run_dir)
    finish()


if __name__ == "__main__":
    sys.exit(main())
