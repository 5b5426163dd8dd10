#include "agent/children.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slurm/slurm.h"

static const char *role_word(uint8_t role)
{
    return role == ROLE_WORKER ? "worker" : role == ROLE_PS ? "ps" : "export";
}

/* One line a process: role index instance pid start-ticks. Written whole after every change. */
static void remember(struct children *c)
{
    char text[CHILDREN_MAX * 80];
    size_t n = 0;
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &c->child[i];
        if (k->used)
            n += (size_t)snprintf(text + n, sizeof text - n, "%u %u %u %u %d %llu\n", k->who.role, k->who.site, k->who.index, k->who.instance,
                                  (int)k->pid, (unsigned long long)k->start_ticks);
    }
    struct err err = ERR_INIT;
    if (fs_publish_file(&fs_real, c->record_path, text, n, &err) < 0)
        log_warn(c->log, "the next agent could not adopt this site's processes: %s", err.text);
}

static struct child *free_place(struct children *c)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (!c->child[i].used)
            return &c->child[i];
    return NULL;
}

static void output_path_of(const struct children *c, struct process_id who, char *out, size_t size)
{
    snprintf(out, size, "%s/log/%s-%s-%u.out", c->run_dir, role_word(who.role), c->site, who.index);
}

static void on_end(void *arg, pid_t pid, int code, int signo)
{
    struct child *k = arg;
    struct children *c = k->owner;
    struct msg_exited m = {.who = k->who, .code = code, .signal = signo};
    char path[600];
    output_path_of(c, k->who, path, sizeof path);
    if (signo <= 0)
        last_line_of(path, m.text, sizeof m.text);
    bool killed = k->killed;
    log_at(c->log, killed || code == 0 ? LOG_INFO : LOG_WARN, "%s %s/%u (pid %d, instance %u) ended: %s %d", role_word(k->who.role), c->site,
           k->who.index, (int)pid, k->who.instance, signo > 0 ? "signal" : "code", signo > 0 ? signo : code);
    k->used = false;
    k->watch = NULL;
    remember(c);
    c->ended(c->arg, &m, killed);
}

static int watch(struct children *c, struct child *k, struct err *err)
{
    k->owner = c;
    return process_watch(c->loop, k->pid, on_end, k, &k->watch, err);
}

int children_init(struct children *c, void (*dead)(void *arg, struct process_id who), struct err *err)
{
    void *bytes = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    if (fs_read_file(&fs_real, c->record_path, 1 << 20, &bytes, &size, &none) < 0)
        return none.code == ERR_NOT_FOUND ? 0 : (*err = none, none.code);
    char *rest = bytes;
    int rc = 0;
    for (char *line; rc == 0 && (line = strsep(&rest, "\n"));) {
        unsigned role, site, index, instance;
        int pid;
        unsigned long long ticks;
        if (sscanf(line, "%u %u %u %u %d %llu", &role, &site, &index, &instance, &pid, &ticks) != 6)
            continue;
        struct process_id who = {.role = (uint8_t)role, .site = (uint8_t)site, .index = (uint16_t)index, .instance = instance};
        if (process_start_ticks(pid) != ticks) {
            dead(c->arg, who);
            continue;
        }
        struct child *k = free_place(c);
        CHECK(k != NULL);
        *k = (struct child){.used = true, .who = who, .pid = pid, .start_ticks = ticks};
        rc = watch(c, k, err);
        log_info(c->log, "adopted %s %s/%u (pid %d, instance %u)", role_word(who.role), c->site, index, pid, instance);
    }
    free(bytes);
    return rc;
}

int children_launch(struct children *c, struct process_id who, const char *const *extra_argv, struct err *err)
{
    struct child *k = free_place(c);
    if (!k)
        return err_set(err, ERR_CONFLICT, "site %s already runs %d processes", c->site, CHILDREN_MAX);
    char index[16], instance[16], socket[160], path[600];
    snprintf(index, sizeof index, "%u", who.index);
    snprintf(instance, sizeof instance, "%u", who.instance);
    snprintf(socket, sizeof socket, "VIADUCT_AGENT_SOCKET=%s", c->socket_path);
    output_path_of(c, who, path, sizeof path);
    const char *argv[24] = {role_word(who.role), "--run", c->run_dir, "--site", c->site};
    unsigned n = 5;
    if (who.role != ROLE_EXPORT) {
        argv[n++] = who.role == ROLE_WORKER ? "--rank" : "--slot";
        argv[n++] = index;
        argv[n++] = who.role == ROLE_WORKER ? "--incarnation" : "--instance";
        argv[n++] = instance;
    }
    for (; extra_argv && *extra_argv && n < ARRAY_LEN(argv) - 1; extra_argv++)
        argv[n++] = *extra_argv;
    /* One compute thread a kernel call: lanes are what runs side by side, and spinning pools would fight for the cores. */
    const char *env[] = {socket, "OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=passive", NULL};
    struct launch what = {.argv = argv, .env = env, .output_path = path, .keep_fd = -1};
    pid_t pid;
    TRY(launch_local(&what, &pid, err));
    *k = (struct child){.used = true, .who = who, .pid = pid, .start_ticks = process_start_ticks(pid)};
    remember(c);
    log_info(c->log, "launched %s %s/%u (pid %d, instance %u)", role_word(who.role), c->site, who.index, (int)pid, who.instance);
    return watch(c, k, err);
}

void children_kill(struct children *c, struct child *child)
{
    (void)c;
    child->killed = true;
    kill(child->pid, SIGKILL);
}

unsigned children_count(const struct children *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        n += c->child[i].used;
    return n;
}

struct child *children_find(struct children *c, enum role role, uint16_t index, uint32_t instance)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *k = &c->child[i];
        if (k->used && k->who.role == role && k->who.index == index && k->who.instance == instance)
            return k;
    }
    return NULL;
}
