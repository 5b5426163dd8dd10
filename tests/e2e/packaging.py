"""make install and uninstall, a trainer compiled against what was installed, make bundle in a root with glibc only, the systemd unit. Prints TAP."""
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from harness import ROOT, complete, environment, events, finish, one_site, report, skip, spec, test, two_sites, workspace

BUNDLE_LIMIT = 40 << 20
UNIT_SCORE_LIMIT = 2.0
GLIBC = ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"]
INSTALLED = ["bin/viaduct", "include/viaduct/viaduct.h", "lib/multi/libviaduct.so", "lib/multi/libviaduct.so.1", "lib/multi/pkgconfig/viaduct.pc",
             "lib/systemd/system/viaduct-coordinator@.service", "share/man/man1/viaduct.1", "share/man/man5/viaduct-spec.5",
             "share/bash-completion/completions/viaduct", "share/zsh/site-functions/_viaduct", "share/fish/vendor_completions.d/viaduct.fish",
             "share/doc/viaduct/docs/manual/install.md", "share/viaduct/monitoring/alerts.yml", "share/viaduct/examples/fashion-mnist.yaml",
             "share/viaduct/examples/own_trainer.c"]


def call(*words, timeout=300, **more):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, errors="backslashreplace", timeout=timeout, **more)


def make(*words, **more):
    """Not as a part of the make that runs the tests."""
    plain = {k: v for k, v in environment().items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MODE", "LIBDIR", "PREFIX", "DESTDIR")}
    return call("make", "--no-print-directory", *words, cwd=ROOT, env=plain, **more)


def both(r):
    return f"exit code {r.returncode}\n{r.stdout[-2000:]}\n{r.stderr[-2000:]}"


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if not p.is_dir() or p.is_symlink())


def compile_trainer(prefix, lib, out, source=None):
    """With nothing but what pkg-config says."""
    env = environment(PKG_CONFIG_PATH=f"{prefix}/{lib}/pkgconfig")
    flags = call("pkg-config", "--cflags", "--libs", "viaduct", env=env)
    return call("cc", "-Werror", "-Wall", "-o", out, source or prefix / "share/viaduct/examples/own_trainer.c", *shlex.split(flags.stdout), f"-Wl,-rpath,{prefix}/{lib}", "-lm")


def installed(w):
    """The hash of the built-in trainer's run by the installed program."""
    prefix, run = w / "prefix", w / "run"
    r = make("install", f"PREFIX={prefix}", f"LIBDIR={prefix}/lib/multi")
    missing = [f for f in INSTALLED if not (prefix / f).exists()]
    test("make install PREFIX= LIBDIR=: program, library, header, viaduct.pc, unit, manual, completions, examples", r.returncode == 0 and not missing, f"{missing} {both(r)}")
    soname = call("readelf", "-d", prefix / "lib/multi/libviaduct.so").stdout
    names = [line.split()[-1] for line in call("nm", "-D", "--defined-only", prefix / "lib/multi/libviaduct.so").stdout.splitlines()]
    test("the library is libviaduct.so.1 and shows viaduct_ names only", "[libviaduct.so.1]" in soname and names and all(n.startswith("viaduct_") for n in names), names)
    bare = {"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(w)}
    job = spec(w)
    r = call("viaduct", "run", job, "--dir", run, env=bare, cwd="/")
    test("the installed program trains over two sites", not complete(run, r), complete(run, r))

    r = compile_trainer(prefix, "lib/multi", w / "trainer")
    test("a trainer of one's own compiles against the installed header, by pkg-config", r.returncode == 0, both(r))
    hashes = []
    for name, sites in (("one", one_site(2)), ("two", two_sites(1, 1))):
        r = call("viaduct", "run", job, "--dir", w / name, "--worker", w / "trainer", f"sites={json.dumps(sites)}", env=bare, cwd="/")
        wrong = complete(w / name, r)
        hashes.append(report(w / name).get("weights_sha256"))
        test(f"it runs with the installed library ({name} site)", not wrong, wrong)
    test("... with the same weights", hashes[0] and hashes[0] == hashes[1], hashes)
    plugin(w, prefix, job, bare)
    return report(run).get("weights_sha256")


def plugin(w, prefix, job, bare):
    """Found from the program, and from the library: a trainer of one's own lies anywhere."""
    if not (prefix / "lib/viaduct/viaduct-mpi.so").exists() or not shutil.which("mpirun"):
        skip("the installed MPI plugin is found", "no Open MPI (apt-get install libopenmpi-dev openmpi-bin)")
        return
    env = dict(bare, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_tcp_if_include="lo",
               OMPI_MCA_oob_tcp_if_include="lo")
    r = call("mpirun", "-n", "2", "viaduct", "run", job, "--dir", w / "mpi", f"sites={json.dumps(one_site(2))}", "export=null", env=env, cwd="/")
    test("the installed program finds the installed MPI plugin", not complete(w / "mpi", r), complete(w / "mpi", r))
    text = (prefix / "share/viaduct/examples/own_trainer.c").read_text()
    (w / "asks.c").write_text(text.replace(".rank = -1", '.rank = -1, .transport = "mpi"'))
    r = compile_trainer(prefix, "lib/multi", w / "asks", w / "asks.c")
    r = call("viaduct", "run", job, "--dir", w / "own-mpi", "--worker", w / "asks", f"sites={json.dumps(one_site(1))}", "export=null", env=env, cwd="/")
    wrong = complete(w / "own-mpi", r)
    test("so does the installed library, in a trainer that asks for MPI", 'transport = "mpi"' in (w / "asks.c").read_text() and not wrong, wrong)


def uninstalled(w):
    r = make("install", f"DESTDIR={w}/staged", "PREFIX=/opt/viaduct")
    there = files(w / "staged")
    pc = (w / "staged/opt/viaduct/lib/pkgconfig/viaduct.pc").read_text() if r.returncode == 0 else ""
    test("make install DESTDIR=: nothing outside, no word of the staging folder", r.returncode == 0 and all(f.startswith("opt/viaduct/") for f in there)
         and "prefix=/opt/viaduct\nlibdir=${prefix}/lib\n" in pc and "staged" not in pc, f"{pc} {both(r)}")
    monitoring = {f"opt/viaduct/share/viaduct/monitoring/{f.name}" for f in (ROOT / "report" / "monitoring").iterdir()}
    test("alerts, dashboard and shippers' configurations go along", len(monitoring) == 5 and monitoring <= set(there), monitoring - set(there))
    r = make("uninstall", f"DESTDIR={w}/staged", "PREFIX=/opt/viaduct")
    test("make uninstall leaves no file", r.returncode == 0 and there and not files(w / "staged"), f"{files(w / 'staged')} {both(r)}")
    (w / "prefix/lib/stranger").write_text("not ours")
    r = make("uninstall", f"PREFIX={w}/prefix", f"LIBDIR={w}/prefix/lib/multi")
    test("... and only takes its own", files(w / "prefix") == ["lib/stranger"], f"{files(w / 'prefix')} {both(r)}")


def in_root(root, *words, timeout=300):
    """In a root of its own, with /proc, /dev/shm and the few devices, and no process of anybody else's. Mounts end with it."""
    script = ('mount -t proc proc "$R/proc" && mount -t tmpfs -o mode=755 tmpfs "$R/dev" && mkdir "$R/dev/shm" && mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm" && '
              'for d in null zero urandom random; do touch "$R/dev/$d" && mount --bind "/dev/$d" "$R/dev/$d" || exit 99; done && exec chroot "$R" "$@"')
    return call("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--ipc", "sh", "-c", script, "sh", *words,
                timeout=timeout, env={"R": str(root), "PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ""})


def bundled(w):
    if not shutil.which("zstd"):
        skip("make bundle", "no zstd (apt-get install zstd)")
        return None
    r = make("bundle", umask=0o022)
    found = re.search(r"(\S+\.tar\.zst): (\d+) bytes, (\d+) libraries; the host needs glibc ([0-9.]+) or newer", r.stdout)
    if not test("make bundle says its size and the glibc that it needs", r.returncode == 0 and found, both(r)):
        return None
    packed = ROOT / found[1]
    test(f"at most 40 MB: {int(found[2])} bytes", packed.stat().st_size == int(found[2]) <= BUNDLE_LIMIT)
    first = hashlib.sha256(packed.read_bytes()).hexdigest()
    r = make("bundle", umask=0o077)
    test("made again under another umask: the same bytes", r.returncode == 0 and hashlib.sha256(packed.read_bytes()).hexdigest() == first, both(r))
    call("tar", "-C", w, "--zstd", "-xf", packed)
    return next(w.glob("viaduct-*"), None)


def bare_root(w, bundle):
    """glibc, the bundle, data, a spec; no shell, no command, no /etc."""
    root = w / "root"
    multiarch = f"lib/{os.uname().machine}-linux-gnu"
    for d in ("lib64", multiarch, "proc", "dev", "tmp", "data"):
        (root / d).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in GLIBC:
        folder = "lib64" if name.startswith("ld-") else multiarch
        shutil.copy(f"/{folder}/{name}", root / folder / name)
    bundle.rename(root / "viaduct")
    job = json.loads(Path(spec(w)).read_text())
    for part in job["data"].values():
        for key in ("images", "labels"):
            shutil.copy(part[key], root / "data")
            part[key] = f"/data/{Path(part[key]).name}"
    (root / "job.yaml").write_text(json.dumps(job, indent=1))
    return root


def in_bare_root(w, bundle, wanted):
    if os.getuid() != 0 or call("unshare", "--mount", "--pid", "--fork", "true").returncode != 0:
        skip("the bundle where there is glibc only", "needs root and namespaces")
        return
    root, program = bare_root(w, bundle), "/viaduct/bin/viaduct"
    outside = [f for f in files(root) if f.startswith("lib")]
    r = in_root(root, program, "version")
    test(f"in a root with {len(outside)} files of glibc and no other library: version", r.returncode == 0 and r.stdout.startswith("viaduct "), both(r))
    r = in_root(root, program, "validate", "/job.yaml")
    test("... validate", r.returncode == 0, both(r))
    r = in_root(root, program, "run", "/job.yaml", "--dir", "/run")
    wrong = complete(root / "run", r, wanted)
    test("... two sites train and export, the weights are those of the installed program", not wrong, wrong)
    test("... and its files are whole", (root / "run/export/float/model.onnx").exists() and (root / "run/report.html").exists() and events(root / "run", "exported"))
    (root / "viaduct/lib/libhdf5_serial.so.103").rename(root / "gone")
    r = in_root(root, program, "version")
    test("... without one of its libraries it does not start: they are what runs", r.returncode == 127 and "libhdf5" in r.stderr, both(r))


def moved(w, bundle):
    """Elsewhere, with a site's modules in the way; and as a prefix to compile against."""
    wrong = w / "modules"
    wrong.mkdir()
    (wrong / "libuv.so.1").write_text("not a library")
    r = call(bundle / "bin/viaduct", "version", env={"LD_LIBRARY_PATH": str(wrong)}, cwd="/")
    test("the bundle's own libraries come before LD_LIBRARY_PATH", r.returncode == 0, both(r))
    r = compile_trainer(bundle, "lib", w / "moved-trainer")
    needs = call("ldd", w / "moved-trainer").stdout
    test("a trainer compiles against the bundle, wherever it lies", r.returncode == 0 and f"{bundle}/lib/libviaduct.so.1" in needs and f"{bundle}/lib/libuv.so.1" in needs,
         f"{both(r)} {needs}")
    listed = [line.split() for line in (bundle / "share/doc/viaduct/libraries").read_text().splitlines()]
    lacking = [p for _, p, _ in listed if p != "-" and not (bundle / "share/doc/viaduct/licences" / p).exists()]
    there = {p.name for p in (bundle / "lib").glob("*.so.*") if not p.name.startswith("libviaduct")}
    test("every library in it is listed with its package, version and licence", {name for name, _, _ in listed} == there and not lacking, f"{listed} {lacking}")


def unit(w):
    if not shutil.which("systemd-analyze"):
        skip("the systemd unit", "no systemd-analyze (apt-get install systemd)")
        return
    path = w / "viaduct-coordinator@first.service"
    shutil.copy(ROOT / "packaging/viaduct-coordinator@.service", path)
    r = call("systemd-analyze", "verify", "--man=no", path)
    test("systemd takes the unit without a word", r.returncode == 0 and not (r.stdout + r.stderr).strip(), both(r))
    r = call("systemd-analyze", "security", "--offline=true", "--no-pager", path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", r.stdout)
    test(f"its exposure is {found and found[1]}, at most {UNIT_SCORE_LIMIT}", found and float(found[1]) <= UNIT_SCORE_LIMIT, both(r))


def container():
    """Apptainer is no package of Debian 12: its definition is read as apptainer reads it, and tests/long/debian.sh runs its commands."""
    text = (ROOT / "packaging/viaduct.def").read_text()
    header, *rest = re.split(r"^%(?=[a-z]+\b)", text, flags=re.M)
    keys = dict(re.match(r"(\w+):\s*(\S+)$", line).groups() for line in header.splitlines() if line.strip() and not line.startswith("#"))
    sections = dict((s.split("\n", 1)[0].strip(), s.split("\n", 1)[1]) for s in rest)
    broken = [name for name in ("post", "test", "runscript", "environment") if call("sh", "-n", input=sections.get(name, "(")).returncode != 0]
    test("the Apptainer definition: a header, known sections, scripts that a shell takes", keys.get("Bootstrap") and keys.get("From") and not broken
         and set(sections) <= {"files", "post", "environment", "runscript", "test", "labels", "help"}, f"{keys} {list(sections)} {broken}")


def main():
    with workspace() as name:
        w = Path(name)
        wanted = installed(w)
        bundle = bundled(w)
        if bundle:
            moved(w, bundle)
            in_bare_root(w, bundle, wanted)
        uninstalled(w)
        unit(w)
        container()
    finish()


main()
