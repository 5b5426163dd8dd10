#include "agent/world.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "slurm/slurm.h"

struct world {
    char name[160], invitation[700], told[700];
    struct process_watch *watch;
    uint32_t invited;
    bool gone;
    void (*on_gone)(void *arg);
    void *arg;
};

static void say_gone(void *arg)
{
    struct world *w = arg;
    w->on_gone(w->arg);
}

static void on_end(void *arg, pid_t pid, int code, int signo)
{
    struct world *w = arg;
    (void)pid, (void)code, (void)signo;   /* no child of ours */
    w->watch = NULL;
    w->gone = true;
    say_gone(w);
}

/* "INCARNATION WORLD": of an agent of this world before us, or of an earlier world. */
static uint32_t read_invitation(const struct world *w)
{
    char name[160] = "";
    unsigned incarnation = 0;
    FILE *f = fopen(w->invitation, "re");
    bool mine = f && fscanf(f, "%u %159s", &incarnation, name) == 2 && strcmp(name, w->name) == 0;
    if (f)
        fclose(f);
    return mine ? incarnation : 0;
}

static int watch(struct loop *l, struct world *w, struct err *err)
{
    const char *text = getenv("VIADUCT_WORLD_PROCESS");   /* start ticks name it for ever, its number does not */
    unsigned long long ticks = 0;
    int pid = 0;
    if (!text || sscanf(text, "%d %llu", &pid, &ticks) != 2)
        return err_set(err, ERR_USAGE, "--external-gang is for the agent that `mpirun viaduct run` starts");
    if (process_start_ticks(pid) == ticks)
        return process_watch(l, pid, on_end, w, &w->watch, err);
    w->gone = true;
    timer_start(l, 0, 0, say_gone, w);
    return 0;
}

int world_open(struct loop *l, const char *run_dir, const char *site, void (*gone)(void *arg), void *arg, struct world **out, struct err *err)
{
    struct world *w = calloc(1, sizeof *w);
    const char *name = getenv("VIADUCT_WORLD");
    CHECK(w != NULL);
    w->on_gone = gone;
    w->arg = arg;
    snprintf(w->name, sizeof w->name, "%s", name ? name : "");
    snprintf(w->invitation, sizeof w->invitation, "%s/state/gang-%s", run_dir, site);
    snprintf(w->told, sizeof w->told, "%s/state/gang-told", run_dir);
    w->invited = read_invitation(w);
    *out = w;
    return watch(l, w, err);
}

void world_close(struct world *w)
{
    if (!w)
        return;
    if (w->watch)
        process_unwatch(w->watch);
    free(w);
}

uint32_t world_invited(const struct world *w) { return w->invited; }
bool world_is_gone(const struct world *w) { return w->gone; }

int world_invite(struct world *w, uint32_t incarnation, struct err *err)
{
    char line[200];
    w->invited = incarnation;
    int n = snprintf(line, sizeof line, "%u %s\n", incarnation, w->name);
    return fs_publish_file(&fs_real, w->invitation, line, (size_t)n, err);
}

void world_last_words(const struct world *w, struct msg_exited *m)
{
    char name[160] = "";
    unsigned rank;
    int code, signo;
    FILE *f = fopen(w->told, "re");
    bool mine = f && fscanf(f, "%159s %u %d %d", name, &rank, &code, &signo) == 4 && strcmp(name, w->name) == 0 && rank < LANES_MAX;
    if (f)
        fclose(f);
    m->code = m->signal = -1;
    snprintf(m->text, sizeof m->text, "mpirun ended the world of this gang");
    if (!mine || signo == SIGTERM)
        return;
    m->who.index = (uint16_t)rank;
    m->code = code;
    m->signal = signo;
    if (signo == 0)
        snprintf(m->text, sizeof m->text, "ended with code %d; mpirun has shown its last words", code);
}
