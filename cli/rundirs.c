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
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "net/net.h"

#define LEFTOVER_MS 12000             /* children of a dead `viaduct run` end within 10 s by themselves */

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return true;
    bool empty = true;
    for (struct dirent *e; empty && (e = readdir(d));)
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(d);
    return empty;
}

/* Ends whatever still holds the run's lock: processes of an earlier start that were stopped or hang. */
static void end_leftovers(const char *lock_path)
{
    struct stat lock, open_file;
    DIR *proc = opendir("/proc");
    if (!proc || stat(lock_path, &lock) < 0)
        return;
    for (struct dirent *e; (e = readdir(proc));) {
        char *end, path[64 + NAME_MAX];
        long pid = strtol(e->d_name, &end, 10);
        if (*end || pid <= 1 || pid == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%ld/fd", pid);
        DIR *fds = opendir(path);
        for (struct dirent *f; fds && (f = readdir(fds));) {
            snprintf(path, sizeof path, "/proc/%ld/fd/%s", pid, f->d_name);
            if (f->d_name[0] != '.' && stat(path, &open_file) == 0 && open_file.st_ino == lock.st_ino && open_file.st_dev == lock.st_dev) {
                kill((pid_t)pid, SIGKILL);
                break;
            }
        }
        if (fds)
            closedir(fds);
    }
    closedir(proc);
}

static int take_lock(const char *dir, bool resume, int *out, struct err *err)
{
    char path[600];
    snprintf(path, sizeof path, "%s/state/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT, 0600);   /* no close-on-exec: children keep the run locked */
    if (fd < 0)
        return err_errno(err, errno, "cannot create %s", path);
    uint64_t until = clock_now_ms() + LEFTOVER_MS;
    bool killed = false;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (!resume || (killed && clock_now_ms() > until)) {
            close(fd);
            return err_set(err, ERR_CONFLICT, "%s is in use by another `viaduct run`; stop it first (viaduct stop %s)", dir, dir);
        }
        if (!killed && clock_now_ms() > until) {
            end_leftovers(path);
            killed = true;
            until = clock_now_ms() + 3000;
        }
        usleep(50000);
    }
    *out = fd;
    return 0;
}

static int write_text(const char *dir, const char *name, const char *text, struct err *err)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

static int make_folders(const char *dir, const struct job_spec *spec, struct err *err)
{
    static const char *const folders[] = {"", "/state", "/state/tls", "/log", "/ckpt", "/export"};
    char path[700];
    for (unsigned i = 0; i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s%s", dir, folders[i]);
        TRY(fs_mkdirs(&fs_real, path, err));
        if (i == 1 || i == 2)
            chmod(path, 0700);
    }
    for (unsigned s = 0; s < spec->site_count; s++) {
        snprintf(path, sizeof path, "%s/ckpt/%s", dir, spec->sites[s].name);
        TRY(fs_mkdirs(&fs_real, path, err));
    }
    return 0;
}

static int new_job_id(const char *dir, struct err *err)
{
    uint8_t id[8];
    char text[2 * sizeof id + 2];
    random_bytes(id, sizeof id);
    hex_of(id, sizeof id, text);
    strncat(text, "\n", 2);
    return write_text(dir, "state/job", text, err);
}

static int check_resume(const char *dir, const struct job *job, struct err *err)
{
    char path[600];
    snprintf(path, sizeof path, "%s/spec.yaml", dir);
    struct job old;
    int rc = job_load(&old, path, NULL, 0, false, err);
    if (rc == 0)
        rc = job_resume_check(&old.spec, &job->spec, err);
    job_fini(&old);
    return rc;
}

int rundirs_open(struct opened_run *o, const char *dir, const struct job *job, bool resume, struct err *err)
{
    char real[PATH_MAX], path[600];
    struct stat st;
    if (strlen(dir) > 480)
        return err_set(err, ERR_USAGE, "--dir is longer than 480 bytes");
    bool empty = is_empty(dir);
    snprintf(path, sizeof path, "%s/state/job", dir);
    bool has_run = stat(path, &st) == 0;
    if (!empty && !resume)
        return err_set(err, ERR_CONFLICT, "%s is not empty; continue that run with --resume, or choose another --dir", dir);
    if (!empty && resume && !has_run)
        return err_set(err, ERR_CONFLICT, "%s is not empty and holds no run to resume", dir);
    if (empty && resume)
        return err_set(err, ERR_NOT_FOUND, "%s holds no run to resume; start it without --resume", dir);
    TRY(make_folders(dir, &job->spec, err));
    if (!realpath(dir, real))
        return err_errno(err, errno, "cannot resolve %s", dir);
    int lock_fd;
    TRY(take_lock(real, resume, &lock_fd, err));
    int rc = has_run ? check_resume(real, job, err) : new_job_id(real, err);
    if (rc == 0)
        rc = write_text(real, "spec.yaml", job->resolved_yaml, err);
    if (rc == 0) {
        snprintf(path, sizeof path, "%.500s/state/coordinator.addr", real);
        unlink(path);   /* of an earlier start */
        rc = rundir_open(&o->run, real, err);
    }
    if (rc < 0) {
        close(lock_fd);
        return rc;
    }
    o->resumed = has_run;
    o->lock_fd = lock_fd;
    return 0;
}

void rundirs_status(const char *dir, char *status, size_t size)
{
    char path[600];
    snprintf(path, sizeof path, "%s/report.json", dir);
    json_t *report = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const char *text = json_string_value(json_object_get(report, "status"));
    snprintf(status, size, "%s", text ? text : "");
    json_decref(report);
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
    return 0;
}
