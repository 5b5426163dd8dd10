#include "base/rundir.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static int own_folder(const char *path, bool make, struct err *err)
{
    struct stat st;
    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot create %s", path);
    if (!make && lstat(path, &st) < 0 && errno == ENOENT)
        return 0;
    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return err_set(err, ERR_DENIED, "%s is not a folder that only you can enter; remove it", path);
    return 0;
}

/* A folder without a job: `viaduct submit` leaves Slurm's number in it, and the run's start makes the rest. */
static int no_run(const char *path, struct err *err)
{
    char file[600];
    void *id = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    snprintf(file, sizeof file, "%s/slurm/id", path);
    if (err->code != ERR_NOT_FOUND || fs_read_file(&fs_real, file, 64, &id, &size, &none) < 0)
        return err_wrap(err, "%s is not a run directory", path);
    int n = (int)MIN(strspn(id, "0123456789"), (size_t)20);
    err_set(err, ERR_TEMPORARY, "%s has not started yet: `squeue -j %.*s` says what its Slurm job waits for, `scancel %.*s` ends it", path, n, (const char *)id, n,
            (const char *)id);
    free(id);
    return err->code;
}

static int open_run(struct rundir *r, const char *path, bool make, struct err *err)
{
    struct rundir made = {0};
    char file[600], user[64];
    void *bytes = NULL;
    size_t size = 0;
    if (snprintf(made.path, sizeof made.path, "%s", path) >= (int)sizeof made.path)
        return err_set(err, ERR_FAILED, "the path of the run is longer than %zu bytes", sizeof made.path - 1);
    snprintf(file, sizeof file, "%s/state/job", path);
    if (fs_read_file(&fs_real, file, 64, &bytes, &size, err) < 0)
        return no_run(path, err);
    snprintf(made.job, sizeof made.job, "%.*s", (int)strcspn(bytes, "\n"), (const char *)bytes);
    free(bytes);
    for (const char *p = made.job; *p; p++)
        if (!isxdigit((unsigned char)*p))
            return err_set(err, ERR_CORRUPT, "%s does not hold a job id", file);
    if (strlen(made.job) < 8)
        return err_set(err, ERR_CORRUPT, "%s does not hold a job id", file);
    snprintf(user, sizeof user, "/tmp/viaduct-%u", (unsigned)geteuid());
    TRY(own_folder(user, make, err));
    snprintf(made.sockets, sizeof made.sockets, "%s/%.12s", user, made.job);
    TRY(own_folder(made.sockets, make, err));
    *r = made;
    return 0;
}

int rundir_open(struct rundir *r, const char *path, struct err *err) { return open_run(r, path, true, err); }

int rundir_look(struct rundir *r, const char *path, struct err *err) { return open_run(r, path, false, err); }

int rundir_coordinator(const struct rundir *r, const char *scheme, char *out, struct err *err)
{
    char file[600];
    void *bytes = NULL;
    size_t size = 0;
    snprintf(file, sizeof file, "%s/state/coordinator.addr", r->path);
    if (fs_read_file(&fs_real, file, 4096, &bytes, &size, err) < 0)
        return err->code = ERR_TEMPORARY;
    int rc = ERR_TEMPORARY;
    char *rest = bytes;
    for (char *line; rc < 0 && (line = strsep(&rest, "\n"));)
        if (strncmp(line, scheme, strlen(scheme)) == 0 && line[strlen(scheme)] == ':' && strlen(line) < 160) {
            snprintf(out, 160, "%s", line);
            rc = 0;
        }
    free(bytes);
    return rc < 0 ? err_set(err, ERR_TEMPORARY, "%s names no %s address yet", file, scheme) : 0;
}

int rundir_start_token(const struct rundir *r, char *out)
{
    char file[600];
    void *bytes = NULL;
    size_t size = 0;
    struct err err = ERR_INIT;
    snprintf(file, sizeof file, "%s/state/start", r->path);
    if (fs_read_file(&fs_real, file, 64, &bytes, &size, &err) < 0)
        return -1;
    snprintf(out, 40, "%.*s", (int)strcspn(bytes, "\n"), (const char *)bytes);
    free(bytes);
    return out[0] ? 0 : -1;
}

/* line 0: for others; 1: where it stands, which is the same when there is no second line. */
static int door_line(const struct rundir *r, const char *site, unsigned wanted, char *out, struct err *err)
{
    char file[700];
    void *bytes = NULL;
    size_t size = 0;
    snprintf(file, sizeof file, "%s/state/door-%s", r->path, site);
    TRY(fs_read_file(&fs_real, file, 4096, &bytes, &size, err));
    const char *at = bytes, *next = strchr(at, '\n');
    if (wanted == 1 && next && next[1])
        at = next + 1;
    size_t line = strcspn(at, "\n");
    int rc = line > 0 && line < 160 ? 0 : err_set(err, ERR_CORRUPT, "%s holds no address", file);
    if (rc == 0)
        snprintf(out, 160, "%.*s", (int)line, at);
    free(bytes);
    return rc;
}

int rundir_door(const struct rundir *r, const char *site, char *out, struct err *err) { return door_line(r, site, 0, out, err); }
int rundir_door_stands(const struct rundir *r, const char *site, char *out, struct err *err) { return door_line(r, site, 1, out, err); }

int rundir_set_door(const struct rundir *r, const char *site, const char *address, const char *stands, struct err *err)
{
    char file[700], text[400];
    snprintf(file, sizeof file, "%s/state/door-%s", r->path, site);
    int n = snprintf(text, sizeof text, strcmp(address, stands) == 0 ? "%s\n" : "%s\n%s\n", address, stands);
    return n < (int)sizeof text ? fs_publish_file(&fs_real, file, text, (size_t)n, err) : err_set(err, ERR_USAGE, "%s is too long for an address", address);
}

void rundir_door_socket(const struct rundir *r, unsigned site_index, char *out)
{
    snprintf(out, 108, "unix:%s/d-%u", r->sockets, site_index);
}

int rundir_site(const struct rundir *r, const char *name)
{
    char file[600];
    void *bytes = NULL;
    size_t size = 0;
    struct err err = ERR_INIT;
    snprintf(file, sizeof file, "%s/state/sites", r->path);
    if (fs_read_file(&fs_real, file, 4096, &bytes, &size, &err) < 0)
        return -1;
    char *rest = bytes;
    int index = 0, found = -1;
    for (char *line; found < 0 && (line = strsep(&rest, "\n")); index++)
        if (*line && strcmp(line, name) == 0)
            found = index;
    free(bytes);
    return found;
}
