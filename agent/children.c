#include "agent/children.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slurm/slurm.h"

#define WORDS_BYTES 8192
#define WORLD_MS 5000                 /* mpirun ends its ranks within 2 s */

static const char *role_word(uint8_t role)
{
    return role == ROLE_WORKER ? "worker" : role == ROLE_PS ? "ps" : "export";
}

static void output_path_of(const struct children *c, struct process_id who, char *out, size_t size)
{
    snprintf(out, size, "%s/log/%s-%s-%u.out", c->run_dir, role_word(who.role), c->site, who.index);
}

/* ---- the record: one line a fact, written whole after every change ---- */
static void print_record(const struct children *c, FILE *f)
{
    if (c->gang_launched)
        fprintf(f, "launched %u 0 %u\n", ROLE_WORKER, c->gang_launched);
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        if (c->slot_launched[s])
            fprintf(f, "launched %u %u %u\n", ROLE_PS, s, c->slot_launched[s]);
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &c->child[i];
        if (k->used)
            fprintf(f, "alive %u %u %u %u %d %llu\n", k->who.role, k->who.site, k->who.index, k->who.instance, (int)k->pid,
                    (unsigned long long)k->start_ticks);
    }
    for (unsigned i = 0; i < c->death_count; i++) {
        const struct msg_exited *m = &c->death[i];
        fprintf(f, "dead %u %u %u %u %d %d %.*s\n", m->who.role, m->who.site, m->who.index, m->who.instance, m->code, m->signal,
                (int)strcspn(m->text, "\n"), m->text);
    }
}

/* Not synced: it must outlive this process, not the host, which takes the processes with it. */
static int write_record(const struct children *c, struct err *err)
{
    char *text = NULL, temporary[660];
    size_t size = 0;
    if (!c->record_path[0])
        return 0;
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    print_record(c, f);
    CHECK(fclose(f) == 0);
    snprintf(temporary, sizeof temporary, "%s.new", c->record_path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text, size) == (ssize_t)size;
    int why = errno;
    if (fd >= 0)
        close(fd);
    free(text);
    if (!ok || rename(temporary, c->record_path) < 0)
        return err_errno(err, ok ? errno : why, "cannot write %s", c->record_path);
    return 0;
}

static void remember(struct children *c)
{
    struct err err = ERR_INIT;
    if (write_record(c, &err) < 0)
        log_warn(c->log, "the next agent could not adopt this site's processes: %s", err.text);
}

static void mark(struct children *c, unsigned role, unsigned index, uint32_t instance)
{
    if (role == ROLE_WORKER)
        c->gang_launched = MAX(c->gang_launched, instance);
    else if (role == ROLE_PS && index < SLOTS_LIMIT)
        c->slot_launched[index] = MAX(c->slot_launched[index], instance);
}

int children_mark(struct children *c, enum role role, uint16_t index, uint32_t instance, struct err *err)
{
    mark(c, role, index, instance);
    return write_record(c, err);
}

/* ---- deaths ---- */
const struct msg_exited *children_death(const struct children *c, struct process_id who)
{
    for (unsigned i = 0; i < c->death_count; i++) {
        const struct process_id *d = &c->death[i].who;
        if (d->role == who.role && d->index == who.index && d->instance == who.instance)
            return &c->death[i];
    }
    return NULL;
}

static void add_death(struct children *c, const struct msg_exited *m)
{
    if (children_death(c, m->who))
        return;
    if (c->death_count == ARRAY_LEN(c->death))
        memmove(c->death, c->death + 1, --c->death_count * sizeof c->death[0]);
    c->death[c->death_count++] = *m;
}

void children_remember_death(struct children *c, const struct msg_exited *m)
{
    add_death(c, m);
    remember(c);
}

void children_forget(struct children *c, bool (*over)(void *arg, const struct process_id *who), void *arg)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < c->death_count; i++)
        if (!over(arg, &c->death[i].who))
            c->death[kept++] = c->death[i];
    if (kept == c->death_count)
        return;
    c->death_count = kept;
    remember(c);
}

/* ---- ends ---- */
static bool is_world(const struct child *k) { return k->owner->mpirun && k->who.role == ROLE_WORKER; }

/* mpirun ends with rules and blank lines; what happened stands above them: a worker's own words, or which rank was killed. */
static void last_words_of_world(const char *path, char *out, size_t size)
{
    char *text = NULL, *rest;
    size_t length = 0;
    out[0] = '\0';
    FILE *f = fopen(path, "re");
    if (f && fseek(f, -(long)WORDS_BYTES, SEEK_END) < 0)
        rewind(f);
    if (f && getdelim(&text, &length, '\0', f) > 0) {
        rest = text;
        for (char *line; (line = strsep(&rest, "\n"));)
            if (strncmp(line, "viaduct: worker: ", 17) == 0 || strncmp(line, "mpirun noticed ", 15) == 0)
                snprintf(out, size, "%s", line);
    }
    free(text);
    if (f)
        fclose(f);
}

static void on_end(void *arg, pid_t pid, int code, int signo)
{
    struct child *k = arg;
    struct children *c = k->owner;
    struct msg_exited m = {.who = k->who, .code = code, .signal = signo};
    char path[700];
    output_path_of(c, k->who, path, sizeof path);
    if (signo > 0)
        snprintf(m.text, sizeof m.text, "killed by signal %d", signo);
    else if (is_world(k))
        last_words_of_world(path, m.text, sizeof m.text);
    else
        last_line_of(path, m.text, sizeof m.text);
    timer_stop(k->patience);
    bool killed = k->killed;
    log_at(c->log, killed || code == 0 ? LOG_INFO : LOG_WARN, "%s %s/%u (pid %d, instance %u) ended: %s %d", role_word(k->who.role), c->site,
           k->who.index, (int)pid, k->who.instance, signo > 0 ? "signal" : "code", signo > 0 ? signo : code);
    k->used = false;
    k->watch = NULL;
    if (!killed)
        add_death(c, &m);
    remember(c);
    c->ended(c->arg, &m, killed);
}

static struct child *free_place(struct children *c)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (!c->child[i].used)
            return &c->child[i];
    return NULL;
}

static int watch(struct children *c, struct child *k, struct err *err)
{
    k->owner = c;
    return process_watch(c->loop, k->pid, on_end, k, &k->watch, err);
}

/* ---- taking over ---- */
static bool is_it(const struct child *k) { return k->start_ticks != 0 && process_start_ticks(k->pid) == k->start_ticks; }

static int adopt(struct children *c, const char *line, struct err *err)
{
    unsigned role, site, index, instance;
    int pid;
    unsigned long long ticks;
    if (sscanf(line, "alive %u %u %u %u %d %llu", &role, &site, &index, &instance, &pid, &ticks) != 6)
        return 0;
    struct process_id who = {.role = (uint8_t)role, .site = (uint8_t)site, .index = (uint16_t)index, .instance = instance};
    mark(c, role, index, instance);
    struct child *k = free_place(c);
    if (!k)
        return err_set(err, ERR_CORRUPT, "%s names more than %d processes; remove it", c->record_path, CHILDREN_MAX);
    *k = (struct child){.who = who, .pid = pid, .start_ticks = ticks};
    if (is_it(k)) {
        TRY(watch(c, k, err));
        k->used = is_it(k);               /* still: from here on the watch means this process, whatever becomes of its number */
    }
    if (k->used) {
        log_info(c->log, "adopted %s %s/%u (pid %d, instance %u)", role_word(who.role), c->site, index, pid, instance);
        return 0;
    }
    process_unwatch(k->watch);
    struct msg_exited m = {.who = who, .code = -1, .signal = -1};
    snprintf(m.text, sizeof m.text, "ended while no agent watched");
    add_death(c, &m);
    return 0;
}

static int read_line(struct children *c, const char *line, struct err *err)
{
    unsigned role, site, index, instance;
    int code, signo, at = 0;
    if (sscanf(line, "launched %u %u %u", &role, &index, &instance) == 3)
        mark(c, role, index, instance);
    if (sscanf(line, "dead %u %u %u %u %d %d %n", &role, &site, &index, &instance, &code, &signo, &at) >= 6 && at > 0) {
        struct process_id who = {.role = (uint8_t)role, .site = (uint8_t)site, .index = (uint16_t)index, .instance = instance};
        struct msg_exited m = {.who = who, .code = code, .signal = signo};
        snprintf(m.text, sizeof m.text, "%s", line + at);
        add_death(c, &m);
    }
    return adopt(c, line, err);
}

int children_init(struct children *c, struct err *err)
{
    void *bytes = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    if (fs_read_file(&fs_real, c->record_path, 1 << 20, &bytes, &size, &none) < 0)
        return none.code == ERR_NOT_FOUND ? 0 : (*err = none, none.code);
    char *rest = bytes;
    int rc = 0;
    for (char *line; rc == 0 && (line = strsep(&rest, "\n"));)
        rc = read_line(c, line, err);
    free(bytes);
    if (rc == 0)
        remember(c);
    return rc;
}

/* ---- launching ---- */
static int launch(struct children *c, struct child *k, struct process_id who, const struct launch *what, struct err *err)
{
    pid_t pid;
    TRY(launch_local(what, &pid, err));
    *k = (struct child){.used = true, .who = who, .pid = pid, .start_ticks = process_start_ticks(pid)};
    remember(c);
    log_info(c->log, "launched %s %s/%u (pid %d, instance %u)", role_word(who.role), c->site, who.index, (int)pid, who.instance);
    return watch(c, k, err);
}

int children_launch(struct children *c, struct process_id who, const char *const *extra_argv, struct err *err)
{
    struct child *k = free_place(c);
    if (!k)
        return err_set(err, ERR_CONFLICT, "site %s already runs %d processes", c->site, CHILDREN_MAX);
    char index[16], instance[16], path[700], socket[160], run[600], site[100], rank[40], incarnation[48], host[40] = "VIADUCT_HOST_INDEX=", address[100];
    snprintf(index, sizeof index, "%u", who.index);
    snprintf(instance, sizeof instance, "%u", who.instance);
    snprintf(socket, sizeof socket, "VIADUCT_AGENT_SOCKET=%s", c->socket_path);
    snprintf(run, sizeof run, "VIADUCT_RUN=%s", c->run_dir);
    snprintf(site, sizeof site, "VIADUCT_SITE=%s", c->site);
    snprintf(rank, sizeof rank, "VIADUCT_RANK=%s", index);
    snprintf(incarnation, sizeof incarnation, "VIADUCT_INCARNATION=%s", instance);
    if (c->hosts > 1)
        snprintf(host, sizeof host, "VIADUCT_HOST_INDEX=%u", c->host);
    snprintf(address, sizeof address, "VIADUCT_HOST_ADDRESS=%s", c->host_address);
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
    static const char *const no_arguments[] = {NULL};
    bool own = who.role == ROLE_WORKER && c->worker_program;
    const char *const env[] = {socket, run, site, rank, incarnation, "VIADUCT_PARENT_FD=", host, c->host_address[0] ? address : NULL, NULL};
    struct launch what = {.program = own ? c->worker_program : NULL, .argv = own ? no_arguments : argv, .env = env, .output_path = path, .keep_fd = -1,
                          .ignore_term = c->ignore_term};
    return launch(c, k, who, &what, err);
}

/* The spec says how many ranks this host has, whatever mpirun takes for its slots; threads of a rank run where they like. */
int children_launch_world(struct children *c, struct process_id who, unsigned ranks, struct err *err)
{
    struct child *k = free_place(c);
    if (!k)
        return err_set(err, ERR_CONFLICT, "site %s already runs %d processes", c->site, CHILDREN_MAX);
    char count[16], instance[16], own[PATH_MAX], path[700], socket[160];
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    if (n < 0)
        return err_errno(err, errno, "cannot find our own program");
    own[n] = '\0';
    snprintf(count, sizeof count, "%u", ranks);
    snprintf(instance, sizeof instance, "%u", who.instance);
    snprintf(socket, sizeof socket, "VIADUCT_AGENT_SOCKET=%s", c->socket_path);
    output_path_of(c, who, path, sizeof path);
    const char *const argv[] = {"-n", count, "--oversubscribe", "--bind-to", "none", own, "worker", "--run", c->run_dir, "--site", c->site, "--incarnation", instance, NULL};
    bool root = geteuid() == 0;           /* who starts a run as root has decided that */
    const char *const env[] = {socket, "VIADUCT_COLLECTIVES=mpi", "VIADUCT_PARENT_FD=", root ? "OMPI_ALLOW_RUN_AS_ROOT=1" : NULL, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", NULL};
    struct launch what = {.program = c->mpirun, .argv = argv, .env = env, .output_path = path, .keep_fd = -1};
    return launch(c, k, who, &what, err);
}

static void kill_hard(void *arg)
{
    struct child *k = arg;
    k->patience = NULL;
    process_signal(k->watch, SIGKILL);    /* its ranks die with it */
}

void children_kill(struct child *child)
{
    bool gently = is_world(child) && !child->killed;
    child->killed = true;
    if (child->watch)
        process_signal(child->watch, gently ? SIGTERM : SIGKILL);
    else                                  /* a child of ours, which there was no memory or descriptor to watch */
        kill(child->pid, SIGKILL);
    if (gently)
        child->patience = timer_start(child->owner->loop, WORLD_MS, 0, kill_hard, child);
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
