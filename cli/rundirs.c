#include "cli/rundirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "ckpt/ckpt.h"
#include "net/net.h"

#define DIR_MAX 480
#define SUPERVISOR_MS 30000           /* one whose mpirun world died needs this long to see it and end */
#define VISITOR_MS 8000               /* of a visiting site, that lost its world or was told to leave */
#define LEFTOVER_MS 12000             /* children of a dead `viaduct run` end within 10 s by themselves */
#define KILLED_MS 3000
#define WATCH_MS 6000                 /* an owner beats each second */
#define CHECKPOINTS_LOOKED_AT 4096
#define SCANS_MAX 5                   /* a process may fork while it is looked for */

/* Whether there is anything in it, and a run; a directory that is not there is empty. */
static int look_into(const char *dir, bool *empty, bool *run, struct err *err)
{
    char path[PATH_MAX + 64];
    struct stat st;
    DIR *d = opendir(dir);
    *empty = true;
    *run = false;
    if (!d)
        return errno == ENOENT ? 0 : err_errno(err, errno, "cannot look into %s", dir);
    for (struct dirent *e; *empty && (e = readdir(d));)   /* `viaduct submit` was here first */
        *empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || strcmp(e->d_name, "slurm") == 0;
    closedir(d);
    snprintf(path, sizeof path, "%s/state/job", dir);
    *run = stat(path, &st) == 0;
    return *run || errno == ENOENT || errno == ENOTDIR ? 0 : err_errno(err, errno, "cannot read %s", path);
}

/* ---- processes that hold the run's lock ---- */
/* As it is inherited from `viaduct run`. Who only looks at the lock (status, a backup) has opened it to read, who does other work on the run, to close at exec. */
static bool inherited(long pid, const char *fd)
{
    char path[64 + NAME_MAX], line[64];
    unsigned flags = O_RDONLY;
    snprintf(path, sizeof path, "/proc/%ld/fdinfo/%s", pid, fd);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "flags: %o", &flags);
    if (f)
        fclose(f);
    return (flags & O_ACCMODE) == O_RDWR && !(flags & O_CLOEXEC);
}

static bool holds(long pid, const struct stat *lock)
{
    char path[64 + NAME_MAX];
    struct stat open_file;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%ld/fd", pid);
    DIR *fds = opendir(path);
    for (struct dirent *f; fds && !found && (f = readdir(fds));) {
        snprintf(path, sizeof path, "/proc/%ld/fd/%s", pid, f->d_name);
        found = f->d_name[0] != '.' && stat(path, &open_file) == 0 && open_file.st_ino == lock->st_ino && open_file.st_dev == lock->st_dev && inherited(pid, f->d_name);
    }
    if (fds)
        closedir(fds);
    return found;
}

static unsigned kill_holders(const struct stat *lock)
{
    unsigned killed = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (*end || pid <= 1 || pid == getpid() || !holds(pid, lock))
            continue;
        kill((pid_t)pid, SIGKILL);
        killed++;
    }
    if (proc)
        closedir(proc);
    return killed;
}

static void end_holders(int lock_fd)
{
    struct stat lock;
    if (fstat(lock_fd, &lock) < 0)
        return;
    for (unsigned i = 0; i < SCANS_MAX && kill_holders(&lock) > 0; i++)
        nanosleep(&(struct timespec){0, 20000000}, NULL);
}

/* ---- locks ---- */
static int open_lock(const char *dir, const char *name, int flags, int *out, struct err *err)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/state/%s", dir, name);
    *out = open(path, O_RDWR | O_CREAT | flags, 0600);
    return *out < 0 ? err_errno(err, errno, "cannot create %s", path) : 0;
}

static bool lock_within(int fd, uint64_t ms)
{
    for (uint64_t until = clock_now_ms() + ms; flock(fd, LOCK_EX | LOCK_NB) < 0; nanosleep(&(struct timespec){0, 50000000}, NULL))
        if (clock_now_ms() >= until)
            return false;
    return true;
}

static int in_use(const char *dir, struct err *err)
{
    struct holder owner;
    char text[200];
    if (lease_owner(dir, &owner) && owner.job) {
        holder_text(&owner, text, sizeof text);
        return err_set(err, ERR_CONFLICT, "%s is in use: %s runs it; stop that first (viaduct stop %s, or scancel %llu), or choose another --dir", dir, text, dir,
                       (unsigned long long)owner.job);
    }
    return err_set(err, ERR_CONFLICT, "%s is in use by another `viaduct run`; stop it first (viaduct stop %s)", dir, dir);
}

/* Another `viaduct run` holds it: one that was superseded ends when it is told, one that lost its world ends by itself. */
static int wait_for_supervisor(const struct opened_run *o, const char *dir, struct err *err)
{
    struct holder owner;
    bool known = lease_owner(dir, &owner);
    if (known && holder_outranks(&owner, &o->me))
        return in_use(dir, err);
    if (known && holder_supersedes(&o->me, &owner))
        TRY(lease_claim(dir, &o->me, err));
    fprintf(stderr, "viaduct run: another `viaduct run` holds %s; waiting up to %d s for its end\n", dir, SUPERVISOR_MS / 1000);
    return lock_within(o->supervisor_fd, SUPERVISOR_MS) ? 0 : in_use(dir, err);
}

/* File systems there are whose locks another host does not see. */
static int check_owner(const struct opened_run *o, const char *dir, struct err *err)
{
    struct holder owner;
    if (lease_owner(dir, &owner) && holder_supersedes(&o->me, &owner))
        TRY(lease_claim(dir, &o->me, err));
    for (uint64_t until = clock_now_ms() + SUPERVISOR_MS; lease_owner_lives(dir, &o->me, WATCH_MS);)
        if (clock_now_ms() >= until || holder_outranks(&owner, &o->me))
            return in_use(dir, err);
    return 0;
}

static int take_locks(struct opened_run *o, const char *dir, bool resume, struct err *err)
{
    TRY(open_lock(dir, "supervisor", O_CLOEXEC, &o->supervisor_fd, err));
    if (!lock_within(o->supervisor_fd, resume ? 1000 : 0))
        TRY(resume ? wait_for_supervisor(o, dir, err) : in_use(dir, err));
    TRY(check_owner(o, dir, err));
    TRY(open_lock(dir, "lock", 0, &o->lock_fd, err));   /* no close-on-exec: children keep the run locked */
    if (lock_within(o->lock_fd, resume ? LEFTOVER_MS : 0))
        return 0;
    if (!resume)
        return in_use(dir, err);
    end_holders(o->lock_fd);
    return lock_within(o->lock_fd, KILLED_MS) ? 0 : in_use(dir, err);
}

int rundirs_lock_visit(struct opened_run *o, const char *dir, struct err *err)
{
    *o = (struct opened_run){.supervisor_fd = -1, .lock_fd = -1};
    TRY(open_lock(dir, "supervisor", O_CLOEXEC, &o->supervisor_fd, err));
    if (!lock_within(o->supervisor_fd, VISITOR_MS))
        return err_set(err, ERR_CONFLICT, "%s is in use: this site has been started already; stop that first, or choose another --dir and another token", dir);
    TRY(open_lock(dir, "lock", 0, &o->lock_fd, err));
    if (lock_within(o->lock_fd, LEFTOVER_MS))
        return 0;
    end_holders(o->lock_fd);
    return lock_within(o->lock_fd, KILLED_MS) ? 0 : err_set(err, ERR_CONFLICT, "%s is in use by processes that do not end", dir);
}

static void give_locks_back(struct opened_run *o)
{
    if (o->lock_fd >= 0)
        close(o->lock_fd);
    if (o->supervisor_fd >= 0)
        close(o->supervisor_fd);
    o->lock_fd = o->supervisor_fd = -1;
}

/* ---- files ---- */
static int write_text(const char *dir, const char *name, const char *text, struct err *err)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

static int make_folders(const char *dir, struct err *err)
{
    static const char *const folders[] = {"", "/state", "/state/tls", "/log", "/ckpt", "/export"};
    char path[PATH_MAX + 128];
    for (unsigned i = 0; i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s%s", dir, folders[i]);
        TRY(fs_mkdirs(&fs_real, path, err));
        if ((i == 1 || i == 2) && chmod(path, 0700) < 0)
            return err_errno(err, errno, "cannot close %s to others", path);
    }
    return 0;
}

static int make_sites(const char *dir, const struct job_spec *spec, struct err *err)
{
    char path[PATH_MAX + 128], names[SITES_MAX * 80] = "";
    size_t n = 0;
    for (unsigned s = 0; s < spec->site_count; s++) {
        snprintf(path, sizeof path, "%s/ckpt/%s", dir, spec->sites[s].name);
        TRY(fs_mkdirs(&fs_real, path, err));
        n += (size_t)snprintf(names + n, sizeof names - n, "%s\n", spec->sites[s].name);
    }
    return write_text(dir, "state/sites", names, err);
}

static int new_id(const char *dir, const char *name, struct err *err)
{
    uint8_t id[8];
    char text[2 * sizeof id + 2];
    random_bytes(id, sizeof id);
    hex_of(id, sizeof id, text);
    text[2 * sizeof id] = '\n';
    text[2 * sizeof id + 1] = '\0';
    return write_text(dir, name, text, err);
}

/* What processes of an earlier start told each other: they are gone, and so is what they knew. */
static void forget_earlier_start(const char *dir)
{
    char path[PATH_MAX + NAME_MAX + 64];
    snprintf(path, sizeof path, "%s/state", dir);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        bool stale = strcmp(e->d_name, "coordinator.addr") == 0 || strncmp(e->d_name, "agent-", 6) == 0 || strncmp(e->d_name, "gang-", 5) == 0 ||
                     strncmp(e->d_name, "door-", 5) == 0;
        snprintf(path, sizeof path, "%s/state/%s", dir, e->d_name);
        if (stale)
            unlink(path);
    }
    if (d)
        closedir(d);
}

/* Shared memory that killed processes left: when nobody of the run lives, nobody needs it. */
static void remove_segments(const char *job)
{
    char prefix[64], name[NAME_MAX + 2];
    snprintf(prefix, sizeof prefix, "viaduct-%s-", job);
    DIR *d = opendir("/dev/shm");
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(name, sizeof name, "/%s", e->d_name);
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
            shm_unlink(name);
    }
    if (d)
        closedir(d);
}

static int load_earlier(const char *dir, const struct job *job, struct job *old, char **changes, struct err *err)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/spec.yaml", dir);
    int rc = job_load(old, path, NULL, 0, false, err);
    if (rc < 0 && old->problems.count)
        return err_set(err, rc, "%s is damaged (line %u: %s); copy the spec that the run was started with to that place", path, old->problems.item[0].line,
                       old->problems.item[0].text);
    TRY(rc);
    return job_resume_check(old, job, changes, err);
}

/* Of a run that had a checkpoint, one must be left: beginning again at step 1 is not what --resume means. Whether it verifies, the coordinator sees. */
static int check_checkpoints(const char *dir, struct err *err)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *last = json_string_value(json_object_get(json_object_get(report, "checkpoint"), "path"));
    struct ckpt_found *found = calloc(CHECKPOINTS_LOOKED_AT, sizeof *found);
    uint32_t count = 0, published = 0;
    CHECK(found != NULL);
    snprintf(path, sizeof path, "%s/ckpt", dir);
    int rc = last ? ckpt_list(path, found, CHECKPOINTS_LOOKED_AT, &count, err) : 0;
    for (uint32_t i = 0; i < count; i++)
        published += found[i].published;
    free(found);
    if (published)
        rc = 0;                       /* a folder that cannot be read is no reason to leave the others alone */
    else if (rc == 0 && last)
        rc = err_set(err, ERR_NOT_FOUND, "the only copies of this run's checkpoints are gone: its report names %s, and %s holds none. Bring back a copy of that folder, "
                     "or start anew in another --dir", last, path);
    json_decref(report);
    return rc;
}

static uint64_t last_step(const char *dir)
{
    char path[PATH_MAX + 64], line[512];
    unsigned long long step = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "{\"step\":%llu", &step);
    if (f)
        fclose(f);
    return step;
}

/* Steps that the run had planned for phase train; 0: no checkpoint tells how many samples a pass has. Once pruning has begun there is one. */
static uint64_t planned_training(const char *dir, const struct job_spec *old)
{
    char path[PATH_MAX + 64];
    uint64_t steps = 0;
    struct ckpt_found *found = calloc(CHECKPOINTS_LOOKED_AT, sizeof *found);
    struct err none = ERR_INIT;
    uint32_t count = 0;
    CHECK(found != NULL);
    snprintf(path, sizeof path, "%s/ckpt", dir);
    (void)ckpt_list(path, found, CHECKPOINTS_LOOKED_AT, &count, &none);   /* those that can be found */
    for (uint32_t i = 0; i < count && steps == 0; i++) {
        struct ckpt_manifest m;
        if (!found[i].published || ckpt_open(&fs_real, found[i].dir, &m, &none) < 0)
            continue;
        steps = job_steps(old, m.meta.samples_per_pass);
        ckpt_manifest_fini(&m);
    }
    free(found);
    return steps;
}

/* What a run that has begun to prune may not change: how, and how long it had trained before. */
static int check_pruning(const char *dir, const struct job_spec *old, const struct job_spec *now, struct err *err)
{
    bool same = old->prune.sparsity == now->prune.sparsity && old->prune.epochs == now->prune.epochs, longer = old->epochs != now->epochs || old->steps != now->steps;
    if (old->prune.sparsity == 0 || (same && !longer))
        return 0;
    uint64_t trains = planned_training(dir, old);
    if (trains == 0 || last_step(dir) <= trains)
        return 0;
    if (!same && now->prune.sparsity == 0)
        return err_set(err, ERR_USAGE, "export.prune was {sparsity: %g, epochs: %g} and is null now; a resume must keep it once pruning has begun (step %llu)",
                       old->prune.sparsity, old->prune.epochs, (unsigned long long)trains + 1);
    if (!same)
        return err_set(err, ERR_USAGE, "export.prune was {sparsity: %g, epochs: %g} and is {sparsity: %g, epochs: %g} now; a resume must keep it once pruning has begun "
                       "(step %llu)", old->prune.sparsity, old->prune.epochs, now->prune.sparsity, now->prune.epochs, (unsigned long long)trains + 1);
    return err_set(err, ERR_USAGE, "train.%s was %g and is %g now; a resume must keep it once pruning has begun (step %llu)", old->steps ? "steps" : "epochs",
                   old->steps ? (double)old->steps : old->epochs, now->steps ? (double)now->steps : now->epochs, (unsigned long long)trains + 1);
}

/* The coordinator asks this of the checkpoint that it starts from, but only when report and spec of what was trained are replaced already. */
static int check_trained(const char *dir, const struct job_spec *now, struct err *err)
{
    char path[2 * PATH_MAX];
    struct ckpt_manifest m;
    struct err none = ERR_INIT;
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *last = json_string_value(json_object_get(json_object_get(report, "checkpoint"), "path"));
    snprintf(path, sizeof path, "%s/%s", dir, last ? last : "");
    int rc = 0;
    if (last && ckpt_open(&fs_real, path, &m, &none) == 0) {
        rc = job_resume_trained(now, m.meta.step, strcmp(m.meta.phase, phase_name(PHASE_PRUNE)) == 0, m.meta.samples_per_pass, err);
        ckpt_manifest_fini(&m);
    }
    json_decref(report);
    return rc;
}

/* A key.path=value of an earlier start is in spec.yaml, which the resume may have been given or not. */
static void tell_changes(const char *changes)
{
    if (changes)
        fprintf(stderr, "viaduct run: the run goes on with another spec than it had (a key.path=value of an earlier start is kept by giving it again):\n%s\n", changes);
}

static int check_resume(const char *dir, const struct job *job, struct err *err)
{
    char *changes = NULL;
    struct job *old = calloc(1, sizeof *old);
    CHECK(old != NULL);
    int rc = load_earlier(dir, job, old, &changes, err);
    if (rc == 0)
        rc = check_pruning(dir, &old->spec, &job->spec, err);
    if (rc == 0)
        rc = check_trained(dir, &job->spec, err);
    if (rc == 0)
        rc = check_checkpoints(dir, err);
    if (rc == 0)
        tell_changes(changes);
    free(changes);
    job_fini(old);
    free(old);
    return rc;
}

/* Whether the report is of that spec, and not of a shorter one that a resume which never began has replaced. */
static bool report_is_of(const char *dir, const struct job *job)
{
    char path[PATH_MAX + 64], hex[SHA256_HEX];
    uint8_t digest[SHA256_BYTES];
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *told = json_string_value(json_object_get(json_object_get(report, "lineage"), "spec_sha256"));
    sha256_of(job->resolved_yaml, strlen(job->resolved_yaml), digest);
    hex_of(digest, sizeof digest, hex);
    bool same = !told || strcmp(told, hex) == 0;
    json_decref(report);
    return same;
}

int rundirs_completed(const char *dir, const struct job *job, bool *completed, struct err *err)
{
    char status[32];
    *completed = false;
    rundirs_status(dir, status, sizeof status);
    if (strcmp(status, "completed") != 0)
        return 0;
    char *changes = NULL;
    struct job *old = calloc(1, sizeof *old);
    CHECK(old != NULL);
    int rc = load_earlier(dir, job, old, &changes, err);
    free(changes);
    bool same = old->spec.epochs == job->spec.epochs && old->spec.steps == job->spec.steps && old->spec.prune.sparsity == job->spec.prune.sparsity &&
                old->spec.prune.epochs == job->spec.prune.epochs;
    *completed = rc == 0 && same && report_is_of(dir, old);
    job_fini(old);
    free(old);
    return rc;
}

static int fill(struct opened_run *o, const char *dir, const struct job *job, struct err *err)
{
    if (o->resumed)
        TRY(check_resume(dir, job, err));
    else
        TRY(new_id(dir, "state/job", err));
    TRY(new_id(dir, "state/start", err));   /* agents of an earlier start, on hosts that nobody reaches, see that they are not of this one */
    TRY(write_text(dir, "spec.yaml", job->resolved_yaml, err));
    TRY(make_sites(dir, &job->spec, err));
    forget_earlier_start(dir);
    TRY(rundir_open(&o->run, dir, err));
    remove_segments(o->run.job);   /* a resume starts from a checkpoint */
    return 0;
}

int rundirs_open(struct opened_run *o, const char *dir, const struct job *job, bool resume, struct err *err)
{
    char real[PATH_MAX];
    bool empty;
    struct opened_run made = {.supervisor_fd = -1, .lock_fd = -1, .me = holder_self()};
    if (strlen(dir) > DIR_MAX)
        return err_set(err, ERR_USAGE, "--dir is longer than %d bytes", DIR_MAX);
    TRY(look_into(dir, &empty, &made.resumed, err));
    if (!empty && !resume)
        return err_set(err, ERR_CONFLICT, "%s is not empty; continue that run with --resume, or choose another --dir", dir);
    if (!empty && !made.resumed)
        return err_set(err, ERR_CONFLICT, "%s is not empty and holds no run to resume; choose another --dir", dir);
    if (empty && resume)
        return err_set(err, ERR_NOT_FOUND, "%s holds no run to resume; start it without --resume", dir);
    TRY(make_folders(dir, err));
    if (!realpath(dir, real))
        return err_errno(err, errno, "cannot resolve %s", dir);
    int rc = take_locks(&made, real, resume, err);
    if (rc == 0)
        rc = lease_beat(real, &made.me, err);
    if (rc == 0)
        rc = fill(&made, real, job, err);
    if (rc == 0) {
        *o = made;
        return 0;
    }
    if (made.me.beat)
        lease_give_back(real);
    give_locks_back(&made);
    return rc;
}

void rundirs_end_all(const struct opened_run *o)
{
    end_holders(o->lock_fd);
}

void rundirs_close(struct opened_run *o)
{
    char path[sizeof o->run.sockets + NAME_MAX + 2];
    rundirs_end_all(o);
    remove_segments(o->run.job);
    DIR *d = opendir(o->run.sockets);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", o->run.sockets, e->d_name);
        if (e->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(o->run.sockets);
    lease_give_back(o->run.path);
    give_locks_back(o);
}

void rundirs_status(const char *dir, char *status, size_t size)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *text = json_string_value(json_object_get(report, "status"));
    snprintf(status, size, "%s", text ? text : "");
    json_decref(report);
}

bool rundirs_diverged(const char *dir)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *code = json_string_value(json_object_get(report, "error_code"));
    bool diverged = code && strcmp(code, err_code_name(ERR_DIVERGED)) == 0;
    json_decref(report);
    return diverged;
}

bool rundirs_lives(const char *dir)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/state/lock", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool free_now = flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    return !free_now;
}

int rundirs_hold(const char *dir, int *lock, struct err *err)
{
    TRY(open_lock(dir, "lock", O_CLOEXEC, lock, err));
    if (lock_within(*lock, 0))
        return 0;
    close(*lock);
    return err_set(err, ERR_CONFLICT, "%s is running; stop it first (viaduct stop %s), or give --out DIR", dir, dir);
}

void rundirs_let_go(int lock) { close(lock); }

/* A server's certificate that names the host, and one for who scrapes it. */
static int issue_for_metrics(const char *dir, const char *job, const char *listen, struct err *err)
{
    static const char *const everywhere[] = {"0.0.0.0", "::", "*"};
    char host[128];
    bool bracket = *listen == '[';
    snprintf(host, sizeof host, "%.*s", (int)(strrchr(listen, ':') - listen - 2 * bracket), listen + bracket);
    for (unsigned i = 0; i < ARRAY_LEN(everywhere); i++)
        if (strcmp(host, everywhere[i]) == 0 && gethostname(host, sizeof host - 1) < 0)
            return err_errno(err, errno, "this machine does not know its name");
    TRY(identity_issue_web(dir, host, err));
    return identity_issue(dir, job, "scraper", ROLE_VIEWER, err);
}

int rundirs_identities(const struct rundir *run, const struct job_spec *spec, struct err *err)
{
    static const enum role roles[] = {ROLE_AGENT, ROLE_WORKER, ROLE_PS, ROLE_EXPORT};
    char dir[600];
    snprintf(dir, sizeof dir, "%s/state/tls", run->path);
    TRY(identity_make_ca(dir, run->job, err));
    TRY(identity_issue(dir, run->job, "coordinator", ROLE_COORDINATOR, err));
    for (unsigned s = 0; s < spec->site_count; s++)
        for (unsigned r = 0; r < ARRAY_LEN(roles); r++)
            TRY(identity_issue(dir, run->job, spec->sites[s].name, roles[r], err));
    return spec->metrics && !http_is_loopback(spec->metrics) ? issue_for_metrics(dir, run->job, spec->metrics, err) : 0;
}
