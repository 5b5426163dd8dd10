"""The first quarter of an hour: the manual's commands run, its words are the program's; init, doctor, completion in three shells, man pages. Prints TAP."""
import gzip
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

from harness import PROGRAM, ROOT, finish, skip, test, viaduct, workspace

BIN = str(Path(PROGRAM).parent)
PAGES = sorted((ROOT / "docs/manual").glob("*.md"))
RUNNABLE = ["first-run", "two-sites", "resume", "prune-and-quantize"]
WAIT_S = 240


def environment(**more):
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def sh_blocks(page):
    """What a page says runs as written, and what it shows as commands (indented)."""
    return "".join(re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.S | re.M))


class Page(threading.Thread):
    """The blocks of a page, from top to bottom, in an empty folder, as a shell runs them that stops at the first error."""

    def __init__(self, name, work):
        super().__init__()
        self.name, self.folder = name, Path(work) / name
        self.folder.mkdir()

    def run(self):
        text = sh_blocks(ROOT / "docs/manual" / f"{self.name}.md")
        p = subprocess.Popen(["bash", "-e", "-c", text], cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="replace", start_new_session=True)
        try:
            self.output = p.communicate(timeout=WAIT_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            self.output = p.communicate()[0] + "\ntook too long"
        self.ok = p.returncode == 0


def pages_run(work):
    runs = [Page(name, work) for name in RUNNABLE]
    for pair in (runs[:2], runs[2:]):
        for page in pair:
            page.start()
        for page in pair:
            page.join()
    for page in runs:
        test(f"the commands of {page.name}.md run as written", page.ok, page.output)
    first = {p.name: p for p in runs}
    test("... and the first run leaves what its page lists", all((first["first-run"].folder / "runs/first" / f).exists() for f in (
        "report.html", "report.json", "metrics.jsonl", "tb", "events.jsonl", "log", "ckpt", "export/float/model.onnx", "spec.yaml", "plan.json")))
    test("... and the killed rank stands in the report", '"cause": "killed by signal 9"' in first["resume"].output, first["resume"].output)


# ---- words of the manual ----
def manual_is_right():
    long = [f"{p.name}: {n}" for p in PAGES if p.name != "spec.md" and (n := len(p.read_text().splitlines())) > 80]
    test("no page has more than 80 lines", not long, long)
    broken = []
    for p in [ROOT / "README.md", ROOT / "docs/README.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#:]+)\)", p.read_text()):
            if not (p.parent / target).exists():
                broken.append(f"{p.name}: {target}")
    test("every link of README and manual leads somewhere", not broken, broken)
    left_out = [p.name for p in PAGES if f"manual/{p.name}" not in (ROOT / "docs/README.md").read_text()]
    test("the index has every page", not left_out, left_out)
    test("docs/manual/spec.md is what the table of keys says (viaduct schema --markdown)", viaduct("schema", "--markdown").stdout == (ROOT / "docs/manual/spec.md").read_text())
    sources = "".join(f.read_text() for d in ("base", "jobs", "data", "cli", "client", "coordinator", "export", "collectives", "worker", "agent") for f in (ROOT / d).glob("*.c"))
    sources += os.strerror(28)
    messages = re.findall(r"^\| (`+ ?)(.+?) ?`+ \|", (ROOT / "docs/manual/troubleshooting.md").read_text().split("## By message")[1], re.M)
    wrong = [m for _, m in messages if m not in sources]
    test(f"each of the {len(messages)} messages that troubleshooting.md explains is one of the program's", len(messages) > 10 and not wrong, wrong)


def pictures_are_text():
    wrong = []
    for p in sorted((ROOT / "docs/pictures").glob("*.svg")):
        tags = {e.tag.split("}")[1] for e in ElementTree.parse(p).iter()}
        if p.stat().st_size > 300_000 or tags & {"image", "script", "foreignObject", "style"} or f"docs/pictures/{p.name}" not in (ROOT / "README.md").read_text():
            wrong.append(f"{p.name}: {p.stat().st_size} bytes, {tags}")
    test("the README's pictures are SVG of at most 300 kB that load and run nothing", not wrong, wrong)


def commands_exist():
    """Each `viaduct VERB ... --option` of README and manual: the verb is there, and has the option."""
    helps, wrong, seen = {}, [], 0
    for p in [ROOT / "README.md", *PAGES]:
        for verb, rest in re.findall(r"viaduct ([a-z]+)((?: +(?!#|&|\|)[^\s`)]+)*)", p.read_text()):
            if verb not in helps:
                r = viaduct("help", verb)
                helps[verb] = r.stdout if r.returncode == 0 else None
            options = re.findall(r"(?<!\S)--[a-z-]+", rest)
            if helps[verb] is None and options:
                wrong.append(f"{p.name}: viaduct {verb}{rest}")
            seen += 1
            wrong += [f"{p.name}: viaduct {verb} {o}" for o in options if helps[verb] and o not in helps[verb] and o != "--help"]
    test(f"the {seen} commands that README and manual name are the program's", seen > 50 and not wrong, wrong)


def examples_are_valid():
    for p in sorted((ROOT / "jobs/examples").glob("*.yaml")):
        r = viaduct("validate", p)
        launchers = set(re.findall(r"via: (\w+)", p.read_text()))
        test(f"jobs/examples/{p.name} is commented, short and valid (via: {', '.join(sorted(launchers))})",
             r.returncode == 0 and p.read_text().startswith("# ") and len(p.read_text().splitlines()) <= 40, r.stderr)
    all_of_them = {v for p in (ROOT / "jobs/examples").glob("*.yaml") for v in re.findall(r"via: (\w+)", p.read_text())}
    test("there is an example for each launcher", all_of_them == {"local", "mpirun", "slurm", "join"}, all_of_them)


def help_is_whole():
    listed = re.findall(r"^  ([a-z]+) +\S", viaduct("--help").stdout.split("verbs:")[1], re.M)
    short = [v for v in listed if len(viaduct(v, "--help").stdout.split("examples:")[-1].split("\n  viaduct ")) < 3]
    test(f"{len(listed)} verbs, each with two examples in --help", len(listed) > 20 and not short, short)
    test("help VERB is VERB --help", all(viaduct("help", v).stdout == viaduct(v, "--help").stdout for v in listed))
    r = viaduct("help", "ruun")
    test("help of an unknown verb names the nearest", r.returncode == 2 and "did you mean 'run'?" in r.stderr, r.stderr)


# ---- init ----
def idx_set(folder, classes, height, width, count=64):
    folder.mkdir()
    for kind, magic, body in (("images-idx3", (0x803, count, height, width), bytes(i % 256 for i in range(count * height * width))),
                              ("labels-idx1", (0x801, count), bytes(i % classes for i in range(count)))):
        for which in ("train", "t10k"):
            with gzip.open(folder / f"{which}-{kind}-ubyte.gz", "wb") as f:
                f.write(struct.pack(f">{len(magic)}I", *magic) + body)


def init(work):
    wrong = []
    for words in ([], ["--family", "mlp"], ["--sites", "2"], ["--sites", "8"], ["--via", "slurm", "--sites", "2"], ["--via", "mpirun"], ["--via", "join", "--sites", "3"]):
        r = viaduct("init", "mine", *words)
        spec = work / "init.yaml"
        spec.write_text(r.stdout)
        v = viaduct("validate", spec)
        if r.returncode or v.returncode or "#" not in r.stdout or len(r.stdout.splitlines()) > 25:
            wrong.append(f"{words}: {r.stderr}{v.stderr}")
    test("what init writes is short, commented and valid, for each launcher", not wrong, wrong)
    idx_set(work / "my data", 7, 12, 9)
    spec = work / "new.yaml"
    r = viaduct("init", "small", "--data", work / "my data", "--out", spec)
    text = spec.read_text() if spec.exists() else ""
    ran = viaduct("run", spec, "--dir", work / "small", "train.batch=16", "train.epochs=1", "export=null", timeout=WAIT_S)
    test("init --data takes shape and classes from the files, whatever the folder is called; and that runs",
         "classes: 7, input: [1, 12, 9]" in text and not r.stdout and ran.returncode == 0, f"{text}\n{r.stderr}\n{ran.stderr}")
    before = spec.read_bytes()
    r = viaduct("init", "--out", spec)
    test("init does not overwrite: exit code 6", r.returncode == 6 and spec.read_bytes() == before, r.stderr)
    codes = [viaduct("init", *w).returncode for w in (["--data", work], ["Bad_Name"], ["--via", "ssh"], ["--sites", "99"], ["--via", "mpirun", "--sites", "2"])]
    test("init refuses what cannot be", codes == [4, 2, 2, 2, 2], codes)


# ---- doctor ----
def doctor(work, **env):
    began = time.monotonic()
    (work / "empty").mkdir(exist_ok=True)
    r = subprocess.run([PROGRAM, "doctor", "--json"], capture_output=True, text=True, env=environment(**env), timeout=WAIT_S, cwd=work / "empty")
    return r.returncode, {c["name"]: c for c in json.loads(r.stdout)["checks"]}, time.monotonic() - began


def doctors(work):
    code, checks, _ = doctor(work)
    states = {c["state"] for c in checks.values()}
    test("doctor names for each check its state, what it matters for and how to get it",
         states <= {"ok", "missing", "too old", "too small"} and all(c["found"] and c["matters"] and c["get"] for c in checks.values()) and len(checks) >= 15, checks)
    test("... and ends with 0 where nothing is missing that every run needs", code == any(c["needed"] and c["state"] != "ok" for c in checks.values()), (code, checks))
    few = subprocess.run(["bash", "-c", 'ulimit -n 100; exec "$0" doctor', PROGRAM], capture_output=True, text=True)
    test("100 open files are too few: exit code 1, and how to get more", few.returncode == 1 and re.search(r"too small +open files.*\n.*needed.*\n.*ulimit -n 1024", few.stdout), few.stdout)
    fake = work / "bin"
    fake.mkdir()
    _, checks, _ = doctor(work, PATH=str(fake))
    test("without commands on the PATH Slurm and mpirun are missing", checks["Slurm"]["state"] == "missing" and checks["Open MPI"]["state"] == "missing", checks)
    (fake / "sbatch").write_text("#!/bin/sh\necho slurm 20.11.4\n")
    (fake / "sinfo").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    for f in ("sbatch", "sinfo"):
        (fake / f).chmod(0o755)
    _, checks, seconds = doctor(work, PATH=str(fake))
    test("an old Slurm is too old; a controller that does not answer holds nothing up",
         checks["Slurm"]["state"] == "too old" and checks["Slurm cluster"]["state"] == "missing" and seconds < 60, (checks, seconds))
    plugins = work / "plugins"
    plugins.mkdir()
    (plugins / "viaduct-mpi.so").write_text("nothing")
    _, checks, _ = doctor(work, VIADUCT_PLUGINS=str(plugins))
    test("a plugin that cannot be loaded is named", checks["MPI plugin"]["state"] == "missing" and str(plugins) in checks["MPI plugin"]["found"], checks)
    test("doctor leaves nothing behind", not list((work / "empty").iterdir()))


# ---- completion ----
CASES = [("viaduct val", ["validate"]), ("viaduct ckpt ", ["ls", "show", "verify"]), ("viaduct ckpt show --", ["--json", "--help"]), ("viaduct init --via ", ["local", "mpirun", "slurm", "join"]),
         ("viaduct run job.yaml train.op", ["train.optimizer."]), ("viaduct run job.yaml train.optimizer.name=", ["train.optimizer.name=sgd", "train.optimizer.name=adamw"]),
         ("viaduct run job.yaml train.lane", ["train.lanes="]), ("viaduct status ", ["runs/", "runs/first"]), ("viaduct status runs/f", ["runs/first"]), ("viaduct plan j", ["job.yaml"]),
         ("viaduct drain runs/first --site ", ["edge", "home"]), ("viaduct run job.yaml --dir=ru", ["--dir=runs/", "--dir=runs/first"]), ("viaduct nonsense ", []), ("viaduct validate ./none/", [])]
BASH = """source <(viaduct completion bash); compopt() { :; }
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:' COMP_LINE=$1 COMP_POINT=${#1}; _viaduct; printf '%s\\n' "${COMPREPLY[@]}" """
ZSH = """source <(viaduct completion zsh); words=("${(@s: :)1}"); CURRENT=${#words}
compadd() { local -a all=("$@"); local i=${all[(i)--]}; print -rl -- "${(@)all[i+1,-1]}"; }; _viaduct"""
FISH = "viaduct completion fish | source; complete -C $argv[1]"


def cut(line, candidates):
    """bash is given what comes after the last = of the word."""
    word = line.split(" ")[-1]
    at = word.rfind("=") + 1
    return [c[at:] for c in candidates]


def one_shell(name, command, folder, shorten=lambda line, c: c):
    if not shutil.which(name):
        return skip(f"completion in {name}", f"no {name} (apt-get install {name})")
    wrong = []
    for line, wanted in CASES:
        r = subprocess.run([*command, line], capture_output=True, text=True, cwd=folder, env=environment(HOME=str(folder), TERM="dumb"), timeout=WAIT_S)
        got = [c.split("\t")[0] for c in r.stdout.splitlines() if c]
        if sorted(got) != sorted(shorten(line, wanted)) or r.stderr:
            wrong.append(f"{line!r}: {got}, wanted {wanted}; {r.stderr}")
    test(f"completion in {name}: verbs, nouns, options, runs, sites, keys and their values; nothing where there is nothing", not wrong, "\n".join(wrong))


def type_into(command, keys, until, folder):
    """Keys typed into a shell on a terminal; whether the screen came to hold `until`."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment(HOME=str(folder), TERM="xterm", ZDOTDIR=str(folder)))
    seen, typed, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end and until.encode() not in seen:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                seen += os.read(fd, 4096)
            except OSError:
                break
        if not typed and b"ready> " in seen:
            os.write(fd, keys.encode())
            typed = True
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(fd)
    return until.encode() in seen, seen.decode(errors="replace")


def completion(work):
    folder = work / "shell"
    (folder / "runs/first/state").mkdir(parents=True)
    spec = viaduct("init", "--via", "join").stdout
    (folder / "job.yaml").write_text(spec)
    (folder / "runs/first/spec.yaml").write_text(spec)
    (folder / "rc").write_text("source <(viaduct completion bash)\nPS1='ready> '\nbind 'set enable-bracketed-paste off'\n")
    one_shell("bash", ["bash", "--norc", "-c", BASH, "bash"], folder, cut)
    one_shell("zsh", ["zsh", "-f", "-c", ZSH, "zsh"], folder)
    one_shell("fish", ["fish", "--no-config", "-c", FISH], folder)
    (folder / ".zshrc").write_text("autoload -U compinit && compinit -u -D\nsource <(viaduct completion zsh)\nPS1='ready> '\nunsetopt beep\n")
    (folder / "rc.fish").write_text("viaduct completion fish | source\nfunction fish_prompt; echo -n 'ready> '; end\n")
    for shell in (["bash", "--rcfile", "rc", "-i"], ["zsh", "-d", "-i"], ["fish", "--no-config", "-i", "-C", "source rc.fish"]):
        if not shutil.which(shell[0]):
            skip(f"a person types into {shell[0]}", f"no {shell[0]} (apt-get install {shell[0]})")
            continue
        ok, seen = type_into(shell, "viaduct run job.yaml train.op\tna\tad\t", "train.optimizer.name=adamw", folder)
        test(f"a person types train.op<TAB>na<TAB>ad<TAB> into {shell[0]}", ok, seen)
    gone = subprocess.run(["bash", "--norc", "-c", BASH.replace("<(viaduct", f"<({PROGRAM}"), "bash", "no-such-viaduct run "], capture_output=True, text=True, cwd=folder)
    test("without the program completion says nothing", gone.stdout.strip() == "" and gone.stderr == "", gone.stdout + gone.stderr)


# ---- man pages ----
def man_pages(work):
    for name, words in (("viaduct.1", ["help", "--man"]), ("viaduct-spec.5", ["schema", "--man"])):
        page = work / name
        page.write_text(viaduct(*words).stdout)
        for tool, command in (("mandoc", ["mandoc", "-Tlint"]), ("groff", ["groff", "-man", "-ww", "-Tutf8", "-z"])):
            if not shutil.which(tool):
                skip(f"{name}: {' '.join(command)} has nothing to say", f"no {tool} (apt-get install {tool})")
                continue
            r = subprocess.run([*command, page], capture_output=True, text=True)
            test(f"{name}: {' '.join(command)} has nothing to say", r.returncode == 0 and not r.stdout + r.stderr, r.stdout + r.stderr)
    text = (work / "viaduct.1").read_text()
    missing = [v for v in re.findall(r"^  ([a-z]+) +\S", viaduct("--help").stdout.split("verbs:")[1], re.M) if f".SS {v}\n" not in text]
    test("viaduct.1 has every verb", not missing, missing)


with workspace() as w:
    work = Path(w)
    man_pages(work)
    init(work)
    doctors(work)
    completion(work)
    help_is_whole()
    examples_are_valid()
    manual_is_right()
    pictures_are_text()
    commands_exist()
    pages_run(work)
finish()
