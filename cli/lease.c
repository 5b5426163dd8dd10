#include "cli/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "slurm/slurm.h"

struct holder holder_self(void)
{
    struct holder h = {.pid = (long)getpid()};
    struct slurm_environment e = slurm_environment_read();
    h.job = e.job;
    h.restart = e.restart;
    snprintf(h.host, sizeof h.host, "%s", e.node);
    return h;
}

static int write_holder(const char *run_dir, const char *name, const struct holder *h, struct err *err)
{
    char path[PATH_MAX], temporary[PATH_MAX + 40], text[200];
    int n = snprintf(text, sizeof text, "%s %ld %llu %u %llu\n", h->host, h->pid, (unsigned long long)h->job, h->restart, (unsigned long long)h->beat);
    snprintf(path, sizeof path, "%s/state/%s", run_dir, name);
    snprintf(temporary, sizeof temporary, "%s.%ld", path, h->pid);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text, (size_t)n) == n;
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (!ok || rename(temporary, path) < 0)
        return err_errno(err, ok ? errno : why, "cannot write %s", path);
    return 0;
}

static bool read_holder(const char *run_dir, const char *name, struct holder *out)
{
    char path[PATH_MAX];
    void *bytes = NULL;
    size_t size = 0;
    struct err err = ERR_INIT;
    unsigned long long job, beat;
    *out = (struct holder){0};
    snprintf(path, sizeof path, "%s/state/%s", run_dir, name);
    if (fs_read_file(&fs_real, path, 512, &bytes, &size, &err) < 0)
        return false;
    bool good = sscanf(bytes, "%63s %ld %llu %u %llu", out->host, &out->pid, &job, &out->restart, &beat) == 5;
    free(bytes);
    if (good) {
        out->job = job;
        out->beat = beat;
    }
    return good;
}

int lease_beat(const char *run_dir, struct holder *me, struct err *err)
{
    me->beat++;
    return write_holder(run_dir, "owner", me, err);
}

void lease_give_back(const char *run_dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/state/owner", run_dir);
    unlink(path);
}

bool lease_owner(const char *run_dir, struct holder *out) { return read_holder(run_dir, "owner", out); }
int lease_claim(const char *run_dir, const struct holder *me, struct err *err) { return write_holder(run_dir, "claim", me, err); }

void holder_text(const struct holder *h, char *out, size_t size)
{
    if (h->job)
        snprintf(out, size, "Slurm job %llu (start %u) on node %s, process %ld", (unsigned long long)h->job, h->restart, h->host, h->pid);
    else
        snprintf(out, size, "process %ld on host %s", h->pid, h->host);
}

bool holder_supersedes(const struct holder *later, const struct holder *earlier)
{
    return later->job != 0 && later->job == earlier->job && later->restart > earlier->restart;
}

bool holder_outranks(const struct holder *owner, const struct holder *me)
{
    return owner->job != 0 && owner->job == me->job && owner->restart >= me->restart;
}

bool lease_is_claimed(const char *run_dir, const struct holder *me)
{
    struct holder claim;
    return me->job != 0 && read_holder(run_dir, "claim", &claim) && holder_supersedes(&claim, me);
}

bool lease_owner_lives(const char *run_dir, const struct holder *me, uint64_t watch_ms)
{
    struct holder first, now;
    if (!lease_owner(run_dir, &first) || strcmp(first.host, me->host) == 0)
        return false;                 /* on this host the lock has said it */
    for (uint64_t until = clock_now_ms() + watch_ms; clock_now_ms() < until; nanosleep(&(struct timespec){0, 100000000}, NULL))
        if (lease_owner(run_dir, &now) && (now.beat != first.beat || now.pid != first.pid))
            return true;
    return false;
}
