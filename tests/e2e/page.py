"""The run page: whole, small, quick, quiet, readable, and nothing that a run is called or says becomes markup. In headless Chromium."""
import json
import math
import random
import re
import sys
from pathlib import Path

import browser
from harness import finish, logs, report, run, skip, spec, test, two_sites, viaduct, workspace

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">&amp;\u2028"\''
LIMIT_BYTES = 500_000
READY_MS = 1000

# Text whose contrast to what it stands on is under 4.5 (large text: 3), as "ratio text"; SVG text and marks are held to their card.
CONTRAST = """(() => {
  const rgb = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 || m[3] > 0.99 ? m.slice(0, 3) : null; };
  const light = (c) => c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }).reduce((s, v, i) => s + v * [0.2126, 0.7152,
       0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c
       && getComputedStyle(e).backgroundColor !== 'rgba(0, 0, 0, 0)') return c; } return [255, 255, 255]; };
  const bad = new Set(), walk = document.createTreeWalker(document.getElementById('page'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e), svg = e.closest('svg');
    if (!walk.currentNode.data.trim() || !e.getClientRects().length || e.matches('.on, title') || style.visibility === 'hidden') continue;
    const ink = rgb(svg ? style.fill : style.color), paper = ground(svg ? svg.parentElement : e);
    if (!ink) continue;
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) bad.add(ratio.toFixed(2) + ' ' + walk.currentNode.data.slice(0, 40));
  }
  return [...bad];
})()"""

# Sections without a drawing, a table or a fact, and drawings and tables without content.
EMPTY = """(() => [
  ...[...document.querySelectorAll('section')].filter((x) => !x.querySelector('svg, table, dl, .card')).map((x) => 'section ' + x.textContent.slice(0, 30)),
  ...[...document.querySelectorAll('svg')].filter((x) => x.getClientRects().length && !x.querySelector('path, rect, circle, line')).map((x) => 'drawing ' + x.outerHTML.slice(0, 80)),
  ...[...document.querySelectorAll('table')].filter((x) => !x.tBodies[0].rows.length).map((x) => 'table ' + x.outerHTML.slice(0, 80)),
  ...[...document.querySelectorAll('.card')].filter((x) => !x.textContent.trim()).map((x) => 'card'),
].concat(/undefined|NaN|\\[object/.test(document.getElementById('page').innerText) ? ['odd text'] : []))()"""

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def long_run(directory, steps):
    """A run directory as a coordinator leaves it, with hostile words wherever words can stand."""
    r = random.Random(7)
    (directory / "state").mkdir(parents=True)
    (directory / "state" / "job").write_text("0123456789abcdef\n")
    with open(directory / "metrics.jsonl", "w") as f:
        seconds = 0.0
        for i in range(1, steps + 1):
            parts = [0.031 * r.uniform(0.9, 1.2), 0.004 * r.uniform(0.5, 3), 0.012 * r.uniform(0.7, 2), 1e-6, 0.02 if i % 1000 == 0 else 0]
            seconds += sum(parts)
            loss = 0.1 + 2.2 * math.exp(-i / 9000) + r.gauss(0, 0.03) + (3 if i == 54321 else 0)
            line = {"step": i, "epoch": 1 + i // 235, "loss": loss, "lr": 0.01 * (1 - i / steps), "samples": 256, "seconds": round(seconds, 3),
                 "accuracy": min(1, max(0, 1 - loss / 3))}
            for name, v in zip(("compute", "inside", "between", "data", "checkpoint"), parts):
                line[f"{name}_seconds"], line[f"{name}_max_seconds"] = v, v * 1.3
            f.write(json.dumps(line, separators=(",", ":")) + "\n")
    with open(directory / "events.jsonl", "w") as f:
        for i in range(3000):
            kind = "dead" if i % 10 == 0 else "checkpoint" if i % 3 else HOSTILE
            f.write(json.dumps({"time": f"2026-11-25T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}.000Z", "event": kind, "who": f"worker {HOSTILE}/0", "step": i,
                 "text": HOSTILE * 12}) + "\n")
    sites = [{"name": f"site{HOSTILE}{i}", "ranks": 8 + i} for i in range(8)]
    text = {
        "name": HOSTILE, "status": "failed", "error": f"it ended: {HOSTILE}", "steps": steps, "epochs": steps / 235, "samples": steps * 256, "wall_seconds": seconds,
        "samples_per_second": steps * 256 / seconds, "world": {"sites": sites, "ranks": 92, "lanes": 8}, "final": {"train_loss": 0.1, "eval_loss": None,
             "eval_accuracy": None},
        "weights_sha256": None, "state_sha256": None, "ledger": {"passes": 426, "missing": 3, "duplicated": 1},
        "restarts": [{"who": f"worker {HOSTILE}/{i}", "at_step": i * 10, "cause": HOSTILE * 9, "lost_steps": i % 3,
             "seconds": None if i % 7 == 0 else 1.5} for i in range(900)],
        "wan": {"bytes_sent": 10**13, "rounds": steps}, "checkpoint": {"path": HOSTILE, "step": steps, "verified_sites": [HOSTILE]},
        "export": {"float": {"path": HOSTILE, "accuracy": 0.9, "bytes": 123456, "latency_ms": {"batch": 1, "threads": 1, "p50": 0.1, "p99": 0.2}},
             "quantized": None, "gate": None},
        "lineage": {"commit": HOSTILE, "spec_sha256": "ab" * 32, "data_sha256": None, "versions": {"viaduct": HOSTILE}},
    }
    (directory / "report.json").write_text(json.dumps(text))
    (directory / "topology.json").write_text(json.dumps({"embedded": False, "sites": [{**x, "wan_sent_bytes": 10**12} for x in sites], "shards": [
        {"shard": i, "copies": [{"site": sites[(i + k) % 8]["name"], "slot": i, "primary": k == 0} for k in range(3)]} for i in range(32)]}))


def quick(b, path):
    """Milliseconds until the page answers, and of computing for it; the best of a few loads. A crowded machine makes the first of them long, a slow page both."""
    waited, computed = [], []
    b.call("Performance.enable", timeDomain="threadTicks")
    while len(waited) < 4 and (not waited or min(waited) >= READY_MS):
        b.open(path)
        waited.append(b.value("Number(document.documentElement.dataset.readyMs) || 1e9"))
        computed.append(next(m["value"] * 1e3 for m in b.call("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration"))
    return min(waited), min(computed)


def holds(b, path, name):
    """What must be true of every page."""
    waited, computed = quick(b, path)
    test(f"{name}: answers after {waited} ms, {computed:.0f} of them computing", waited < 1e9 and min(waited, computed) < READY_MS, (waited, computed))
    test(f"{name}: no complaint in the console, no request but for the file itself", not b.complaints and b.requests == [f"file://{path}"],
         b.complaints + b.requests[:5])
    empty = b.value(EMPTY)
    test(f"{name}: no panel is empty", not empty, empty)
    grounds = []
    for dark in (False, True):
        b.open(path, dark=dark)
        grounds.append(b.value("getComputedStyle(document.body).backgroundColor"))
        low = b.value(CONTRAST)
        test(f"{name}: text is readable in the {'dark' if dark else 'light'} scheme", not low, "\n".join(low[:20]))
    test(f"{name}: two schemes", grounds[0] != grounds[1], grounds)
    for width in (390, 768):
        b.open(path, width=width, height=844)
        test(f"{name}: {width} pixels are wide enough", b.value(WIDER) <= 0 and b.value("document.querySelectorAll('svg').length") > 0, b.value(WIDER))
    size = Path(path).stat().st_size
    test(f"{name}: {size} bytes, at most {LIMIT_BYTES}", size <= LIMIT_BYTES, size)


def a_real_run(b, w):
    directory = w / "real"
    job = spec(w, sites=two_sites(2, 1))
    result = run(job, directory)
    path = directory / "report.html"
    if not test("a run ends with its page", result.returncode == 0 and path.exists(), result.stderr[-1500:] + logs(directory)):
        return
    holds(b, path, "a run")
    text = b.value("document.getElementById('page').innerText")
    accuracy = f"{report(directory)['final']['eval_accuracy'] * 100:.2f}"
    wanted = ["small", "Completed", accuracy, "Learning", "Where the time goes", "Throughput", "onprem", "cloud", "Results", "Lineage",
         report(directory)["weights_sha256"]]
    test("it tells what was trained, where, how well", all(x in text for x in wanted), [x for x in wanted if x not in text])
    marks = b.value("[document.querySelectorAll('.map .rank').length, document.querySelectorAll('.map .shard').length, document.querySelectorAll('.map .bytes').length]")
    test("its map has 3 ranks, 4 copies of shards, 2 links with bytes", marks == [3, 4, 2], marks)
    b.open(path)
    x, y = b.value("(() => { const p = document.querySelector('.plot').getBoundingClientRect(); return [p.left + p.width / 2, p.top + 60]; })()")
    b.hover(x, y)
    tip = b.value("document.querySelector('.tip.on')?.innerText || ''")
    test("pointing at a curve reads it out", re.search(r"step \d+", tip) and "loss" in tip, tip)
    test("and the other curves mark the same step", b.value("document.querySelectorAll('.cursor').length") >= 4)
    b.value("document.querySelector('.plot').focus()")
    b.key("Home")
    first = b.value("document.activeElement.getAttribute('aria-valuetext')")
    b.key("ArrowRight")
    second = b.value("document.activeElement.getAttribute('aria-valuetext')")
    test("so do the arrow keys", str(first).startswith("step 1,") and str(second).startswith("step 2,"), (first, second))
    before = b.value("document.querySelectorAll('.plot')[2].innerHTML.length")
    b.value("[...document.querySelectorAll('.choice button')].find((x) => x.textContent === 'Slowest rank').click()")
    test("the split shows the slowest rank too", b.value("[...document.querySelectorAll('.choice button')].find((x) => x.textContent === 'Slowest rank').ariaPressed") == "true" and before > 0)
    test("every drawing has words for those who do not see it", b.value(
        "[...document.querySelectorAll('svg')].every((x) => x.getAttribute('aria-hidden') === 'true' || x.getAttribute('aria-label'))"
        " && [...document.querySelectorAll('.plot[role=slider]')].every((x) => x.getAttribute('aria-label'))"))
    path.unlink()
    again = viaduct("report", directory)
    test("viaduct report writes it anew", again.returncode == 0 and path.exists() and str(path) in again.stdout, again.stderr)


def one_that_prunes(b, w):
    directory = w / "pruned"
    result = run(spec(w, export={"to": ["onnx"], "prune": {"sparsity": 0.5, "epochs": 1}}), directory)
    if not test("a run that prunes has a page", result.returncode == 0, result.stderr[-1500:] + logs(directory)):
        return
    holds(b, directory / "report.html", "a run that prunes")
    b.open(directory / "report.html")
    words = "[...document.querySelectorAll('.plot[role=slider] svg')].map((x) => [...x.querySelectorAll('.phase-name')].map((t) => t.textContent).join())"
    told = b.value(words)
    test("each curve says where pruning begins", told and set(told) == {"prune"}, told)


def a_long_one(b, w):
    directory = w / "long"
    long_run(directory, 100_000)
    result = viaduct("report", directory)
    path = directory / "report.html"
    if not test("a page of 100,000 steps", result.returncode == 0 and path.exists(), result.stderr):
        return
    holds(b, path, "100,000 steps, hostile words")
    test("no word became markup", b.value("typeof window.hacked") == "undefined" and b.value("document.querySelectorAll('main img, main script').length") == 0
         and b.value("document.scripts.length") == 2 and b.value("document.title").startswith("</script>"))
    test("and all of them are shown as they are", b.value("document.querySelector('h1').textContent") == HOSTILE
         and f"it ended: {HOSTILE}" in b.value("document.querySelector('[role=alert]').textContent"))
    peak = b.value("Math.max(...JSON.parse(document.getElementById('data').textContent).series.loss_max)")
    test("a spike of one step in 100,000 is still there", peak > 3, peak)


def plural(steps):
    return f"{steps} step{'' if steps == 1 else 's'}"


def poor_ones(b, w):
    """A run that failed before its first step, one that was killed in the middle of a line, and folders that are none."""
    job = spec(w, coordinator={"listen": "192.0.2.1:1"})
    directory = w / "failed"
    result = run(job, directory)
    path = directory / "report.html"
    if test("a run that could not start has a page too", result.returncode != 0 and path.exists(), result.stderr[-800:]):
        holds(b, path, "a failed run")
        test("it says why", report(directory)["error"] in b.value("document.querySelector('[role=alert]').textContent"))
    cut = w / "cut"
    long_run(cut, 3)
    with open(cut / "metrics.jsonl", "a") as f:
        f.write('{"step":4,"epoch":1,"los')
    (cut / "topology.json").unlink()
    (cut / "events.jsonl").write_text('{"time":"2026-11-25T00:00:00.000Z","event":"dead","who":"w","step":1,"text":"x"}\n{"time":"2026')
    result = viaduct("report", cut)
    if test("a run that was killed while it wrote has a page", result.returncode == 0, result.stderr):
        holds(b, cut / "report.html", "cut files")
    for steps in (3, 1):
        few = w / f"of-{steps}"
        long_run(few, steps)
        result = viaduct("report", few)
        if test(f"a page of {plural(steps)}", result.returncode == 0, result.stderr):
            holds(b, few / "report.html", plural(steps))
        if steps == 3:
            b.open(few / "report.html", width=1300, height=900)
            test("every step has its number below each curve", b.value(
                "[...document.querySelectorAll('.plot svg[aria-hidden]')].every((x) => ['1', '2', '3'].every((n) => [...x.querySelectorAll('text')].some((t) => t.textContent === n)))"))
    test("a step alone is a dot in each curve, and a bar of its parts", b.value(
        "[document.querySelectorAll('circle.alone').length, [...document.querySelectorAll('.plot path')].filter((x) => x.getBBox().width > 10 && x.getBBox().height > 1).length > 0]")
        == [2, True])
    result = viaduct("report", w)
    test("a folder that is no run: exit 4, no page", result.returncode == 4 and not (w / "report.html").exists(), (result.returncode, result.stderr))


def main():
    program = browser.find()
    if not program:
        skip("the run page", "no Chromium is installed (apt-get install chromium)")
        finish()
    with workspace() as name, browser.Browser(program) as b:
        w = Path(name)
        for part in (a_real_run, one_that_prunes, a_long_one, poor_ones):
            part(b, w)
    finish()


if __name__ == "__main__":
    sys.exit(main())
