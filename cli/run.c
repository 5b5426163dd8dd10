/* `viaduct run`: makes the run directory, starts the coordinator and the agents of local sites, restarts those that die, shows a live line,
 * and ends with the report. It decides nothing about the training: when it dies, the others finish the round, save and exit. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/live.h"
#include "cli/mpi_world.h"
#include "cli/rundirs.h"
#include "net/net.h"
#include "slurm/slurm.h"

#define RESTARTS_MAX 20               /* of one process; a run that needs more has another problem */
#define RESTART_AFTER_MS 100
#define FAREWELL_MS 12000

struct supervisor;
struct minder {                       /* one process that we keep alive */
    struct supervisor *s;
    char name[80];
    const char *argv[12];
    pid_t pid;                        /* 0: not running */
    struct process_watch *watch;
    unsigned restarts;
    bool over;                        /* ended for good */
    int code;
    bool is_coordinator;
};

struct supervisor {
    struct loop *loop;
    struct log log;
    struct opened_run dir;
    struct job job;
    int parent_pipe[2];               /* we hold the writing end: its end of file tells everyone that we are gone */
    char parent_env[48];
    struct minder minder[1 + SITES_MAX];
    unsigned minder_count;
    struct live *live;
    unsigned interrupts;
    int signo;
    bool farewell;
};

static void on_end(void *arg, pid_t pid, int code, int signo);

static int start(struct minder *m, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/log/%s.out", m->s->dir.run.path, m->name);
    const char *env[] = {m->s->parent_env, NULL};
    struct launch what = {.argv = m->argv, .env = env, .output_path = path, .keep_fd = m->s->parent_pipe[0], .own_session = true};
    TRY(launch_local(&what, &m->pid, err));
    return process_watch(m->s->loop, m->pid, on_end, m, &m->watch, err);
}

static void give_up(void *arg)
{
    struct supervisor *s = arg;
    for (unsigned i = 0; i < s->minder_count; i++)
        if (s->minder[i].pid)
            kill(s->minder[i].pid, SIGKILL);
    loop_stop(s->loop);
}

/* The coordinator is over: the agents have been told, and get a moment. */
static void begin_farewell(struct supervisor *s)
{
    if (s->farewell)
        return;
    s->farewell = true;
    timer_start(s->loop, FAREWELL_MS, 0, give_up, s);
}

static void end_when_all_over(struct supervisor *s)
{
    for (unsigned i = 0; i < s->minder_count; i++)
        if (!s->minder[i].over)
            return;
    loop_stop(s->loop);
}

static void restart(void *arg)
{
    struct minder *m = arg;
    struct err err = ERR_INIT;
    if (m->is_coordinator)
        m->argv[3] = NULL;            /* without --fresh: what lives is taken over */
    if (start(m, &err) < 0) {
        log_error(&m->s->log, "%s: %s", m->name, err.text);
        m->over = true;
        m->code = err_exit_code(err.code);
        begin_farewell(m->s);
        end_when_all_over(m->s);
    }
}

static void on_end(void *arg, pid_t pid, int code, int signo)
{
    struct minder *m = arg;
    struct supervisor *s = m->s;
    (void)pid;
    m->pid = 0;
    m->watch = NULL;
    bool crashed = signo > 0 || code == 1 || code == 134;
    if (crashed && !s->farewell && m->restarts < RESTARTS_MAX && s->interrupts < 2) {
        m->restarts++;
        log_warn(&s->log, "%s ended (%s %d); started again", m->name, signo > 0 ? "signal" : "code", signo > 0 ? signo : code);
        timer_start(s->loop, RESTART_AFTER_MS, 0, restart, m);
        return;
    }
    m->over = true;
    m->code = signo > 0 ? 128 + signo : code;
    if (m->is_coordinator || code != 0)
        begin_farewell(s);
    if (m->is_coordinator && m->code != 0)   /* nobody will tell the agents to stop */
        for (unsigned i = 1; i < s->minder_count; i++)
            if (s->minder[i].pid)
                kill(s->minder[i].pid, SIGTERM);
    end_when_all_over(s);
}

/* Processes whose agent died are handed to us (subreaper): take their exit status, unless a minder's watch does. */
static void reap(struct supervisor *s)
{
    siginfo_t info = {0};
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
        for (unsigned i = 0; i < s->minder_count; i++)
            if (s->minder[i].pid == info.si_pid)
                return;
        waitpid(info.si_pid, NULL, WNOHANG);
        info.si_pid = 0;
    }
}

static void on_tick(void *arg)
{
    struct supervisor *s = arg;
    reap(s);
    live_tick(s->live);
}

static void on_interrupt(void *arg, int signo)
{
    struct supervisor *s = arg;
    s->signo = signo;
    s->interrupts++;
    if (s->interrupts == 1) {
        live_note(s->live, "saving a checkpoint and stopping; once more ends at once");
        if (s->minder[0].pid)
            kill(s->minder[0].pid, SIGTERM);
    } else {
        give_up(s);
    }
}

static void add_minder(struct supervisor *s, const char *role, const char *site, const char *flag)
{
    struct minder *m = &s->minder[s->minder_count++];
    *m = (struct minder){.s = s, .is_coordinator = !site};
    snprintf(m->name, sizeof m->name, "%s%s%s", role, site ? "-" : "", site ? site : "");
    unsigned n = 0;
    m->argv[n++] = role;
    m->argv[n++] = "--run";
    m->argv[n++] = s->dir.run.path;
    if (site) {
        m->argv[n++] = "--site";
        m->argv[n++] = site;
    }
    if (flag)
        m->argv[n++] = flag;
}

static int start_all(struct supervisor *s, const char *external_site, struct err *err)
{
    TRY(loop_new(&s->loop, err));
    if (pipe2(s->parent_pipe, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot make a pipe");
    snprintf(s->parent_env, sizeof s->parent_env, "VIADUCT_PARENT_FD=%d", s->parent_pipe[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    TRY(loop_on_signal(s->loop, SIGINT, on_interrupt, s, err));
    TRY(loop_on_signal(s->loop, SIGTERM, on_interrupt, s, err));
    add_minder(s, "coordinator", NULL, "--fresh");
    for (unsigned i = 0; i < s->job.spec.site_count; i++) {
        const struct job_site *site = &s->job.spec.sites[i];
        bool external = external_site && strcmp(site->name, external_site) == 0;
        if (site->via == VIA_LOCAL || external)
            add_minder(s, "agent", site->name, external ? "--external-gang" : NULL);
    }
    for (unsigned i = 0; i < s->minder_count; i++)
        TRY(start(&s->minder[i], err));
    TRY(live_open(s->loop, &s->dir.run, &s->live, err));
    timer_start(s->loop, 100, 250, on_tick, s);
    return 0;
}

static int outcome(struct supervisor *s)
{
    char status[32];
    rundirs_status(s->dir.run.path, status, sizeof status);
    live_summary(s->dir.run.path, stderr);
    printf("report: %s/report.json\n", s->dir.run.path);
    if (s->signo)
        return 128 + s->signo;
    if (strcmp(status, "completed") == 0 || strcmp(status, "stopped") == 0)
        return 0;
    return s->minder[0].code ? s->minder[0].code : 3;
}

static int already_completed(const char *dir)
{
    char status[32];
    rundirs_status(dir, status, sizeof status);
    if (strcmp(status, "completed") != 0)
        return 0;
    live_summary(dir, stderr);
    printf("report: %s/report.json\n", dir);
    return 1;
}

static int supervise(struct supervisor *s, const struct args *a, struct err *err)
{
    char fallback[300];
    snprintf(fallback, sizeof fallback, "runs/%s", s->job.spec.name);
    const char *dir = a->value[0] ? a->value[0] : fallback;
    if (a->value[1] && already_completed(dir))
        return 1;
    TRY(rundirs_open(&s->dir, dir, &s->job, a->value[1] != NULL, err));
    TRY(rundirs_identities(&s->dir.run, &s->job.spec, err));
    char path[700];
    snprintf(path, sizeof path, "%s/log/run.jsonl", s->dir.run.path);
    log_open(&s->log, path, "run", s->dir.run.job);
    live_plan(s->dir.run.path, &s->job, stderr);
    TRY(start_all(s, a->value[3], err));
    loop_run(s->loop);
    return 0;
}

int verb_run(int argc, char **argv)
{
    static const char *const options[] = {"--dir=", "--resume", "--site=", "--external-gang=", NULL};
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, options, argc, argv, &err) < 0)
        return cli_fail("run", &err);
    if (a.positional_count != 1) {
        err_set(&err, ERR_USAGE, "one spec is needed: viaduct run SPEC [--dir RUN] [--resume] [key.path=value ...]");
        return cli_fail("run", &err);
    }
    struct mpi_environment world = mpi_environment_read();
    if (world.ranks)
        return mpi_world_run(world, &a, argc, argv);
    struct supervisor *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int rc = cli_load_spec("run", &s->job, a.positional[0], &a, true);
    int code = err_exit_code(rc);
    if (rc == 0) {
        rc = supervise(s, &a, &err);
        code = rc < 0 ? cli_fail("run", &err) : rc == 1 ? 0 : outcome(s);
    }
    if (rc < 0 && s->loop)
        give_up(s);
    live_close(s->live);
    if (s->loop)
        loop_free(s->loop);
    job_fini(&s->job);
    free(s);
    return code;
}
