/* `viaduct run`: makes the run directory, starts the coordinator and the agents of local sites, restarts those that die, shows a live line,
 * and ends with the report. It decides nothing about the training: when it dies, the others finish the round, save and exit. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/join.h"
#include "cli/live.h"
#include "cli/mpi_world.h"
#include "cli/rundirs.h"
#include "cli/slurm_run.h"
#include "coordinator/coordinator.h"
#include "net/net.h"
#include "report/report.h"
#include "slurm/slurm.h"

#define RESTARTS_MAX 50               /* of one process; a run that needs more has another problem */
#define QUICK_MS 2000                 /* a process that ends this soon after its start ... */
#define QUICK_MAX 5                   /* ... so many times in a row will not do better */
#define RESTART_AFTER_MS 100
#define STEP_AFTER_MS 2000            /* a Slurm step: its nodes may need a moment */
#define FAREWELL_MS 12000
#define FAREWELL_STOPPED_MS 3000       /* of a run that was told to stop: it has waited for its agents already */
#define TICK_MS 250

struct supervisor;
struct minder {                       /* one process that we keep alive */
    struct supervisor *s;
    char name[80];
    const char *argv[16];
    unsigned once;                    /* the coordinator's arguments from here on are for its first start */
    struct slurm_step *step;          /* agents of a Slurm site: what srun is told; NULL: a process of this host */
    pid_t pid;                        /* 0: not running */
    struct process_watch *watch;
    uint64_t started_ms;
    unsigned restarts, quick;
    bool over;                        /* ended for good */
    int code;
    bool is_coordinator;
};

struct supervisor {
    struct loop *loop;
    struct log log;
    struct opened_run dir;
    bool opened;
    const char *dir_name;             /* as it was given */
    char fallback_dir[80];
    struct job job;
    int parent_pipe[2];               /* we hold the writing end: its end of file tells everyone that we are gone */
    char parent_env[48];
    struct minder minder[1 + SITES_MAX * RANKS_MAX];   /* nodes are not more than ranks */
    unsigned minder_count;
    struct live *live;
    struct slurm_run *slurm;          /* NULL: no site is `via: slurm` */
    unsigned ticks;
    bool superseded;                  /* another start of this Slurm job has the run */
    unsigned interrupts;
    int signo;
    bool farewell;
    struct minder *cause;             /* the first that ended for good with a code, if that ended the run */
};

static void on_end(void *arg, pid_t pid, int code, int signo);

static int start(struct minder *m, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/log/%s.out", m->s->dir.run.path, m->name);
    /* A pipe does not reach another host, and this one's address is not that one's. */
    const char *env[] = {m->step ? "VIADUCT_PARENT_FD=" : m->s->parent_env, m->step ? "VIADUCT_HOST_ADDRESS=" : NULL, NULL};
    struct launch what = {.argv = m->argv, .env = env, .output_path = path, .keep_fd = m->s->parent_pipe[0], .own_session = true};
    if (m->step) {
        what.program = slurm_run_srun(m->s->slurm);
        what.argv = m->step->argv;
        what.keep_fd = -1;
    }
    TRY(launch_local(&what, &m->pid, err));
    m->started_ms = loop_now_ms(m->s->loop);
    return process_watch(m->s->loop, m->pid, on_end, m, &m->watch, err);
}

/* Everything of the run, also what is no child of ours. */
static void give_up(void *arg)
{
    struct supervisor *s = arg;
    rundirs_end_all(&s->dir);
    loop_stop(s->loop);
}

/* The coordinator is over: the agents have been told, and get a moment. */
static void begin_farewell(struct supervisor *s)
{
    if (s->farewell)
        return;
    char status[32];
    rundirs_status(s->dir.run.path, status, sizeof status);
    s->farewell = true;
    timer_start(s->loop, strcmp(status, "stopped") == 0 ? FAREWELL_STOPPED_MS : FAREWELL_MS, 0, give_up, s);
}

static void end_when_all_over(struct supervisor *s)
{
    for (unsigned i = 0; i < s->minder_count; i++)
        if (!s->minder[i].over)
            return;
    loop_stop(s->loop);
}

static void process_over(struct minder *m, int code)
{
    struct supervisor *s = m->s;
    m->over = true;
    m->code = code;
    if (code != 0 && !s->farewell)
        s->cause = m;
    if (m->is_coordinator && code != 0)   /* nobody may have told the agents to stop */
        for (unsigned i = 1; i < s->minder_count; i++)
            if (s->minder[i].pid)
                kill(s->minder[i].pid, SIGTERM);
    if (m->is_coordinator || code != 0)
        begin_farewell(s);
    if (!m->is_coordinator && code != 0)
        live_want_stop(s->live);
    end_when_all_over(s);
}

static void restart(void *arg)
{
    struct minder *m = arg;
    struct err err = ERR_INIT;
    if (m->is_coordinator)
        m->argv[m->once] = NULL;      /* without --fresh: what lives is taken over */
    if (m->s->farewell && !m->is_coordinator) {
        process_over(m, 0);
    } else if (start(m, &err) < 0) {
        log_error(&m->s->log, "%s: %s", m->name, err.text);
        process_over(m, err_exit_code(err.code));
    }
}

static void on_end(void *arg, pid_t pid, int code, int signo)
{
    struct minder *m = arg;
    struct supervisor *s = m->s;
    (void)pid;
    m->pid = 0;
    m->watch = NULL;
    bool crashed = signo != 0 || code == 1 || code == 127 || (m->step && code > 128);
    if (m->step && slurm_run_signalled(s->slurm)) {   /* srun gets Slurm's signal too, and gives up; the agents go on to their end */
        process_over(m, 0);
        return;
    }
    m->quick = loop_now_ms(s->loop) - m->started_ms < QUICK_MS ? m->quick + 1 : 0;
    if (!crashed || s->farewell || m->restarts >= RESTARTS_MAX || m->quick >= QUICK_MAX) {
        process_over(m, signo > 0 ? 128 + signo : code);
        return;
    }
    m->restarts++;
    live_clear(s->live);
    log_warn(&s->log, "%s ended (%s %d); started again", m->name, signo > 0 ? "signal" : "code", signo > 0 ? signo : code);
    timer_start(s->loop, m->step ? STEP_AFTER_MS : RESTART_AFTER_MS, 0, restart, m);
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
    struct err err = ERR_INIT;
    reap(s);
    live_tick(s->live);
    if (++s->ticks % (1000 / TICK_MS) != 0)
        return;
    if (lease_is_claimed(s->dir.run.path, &s->dir.me)) {
        s->superseded = true;
        give_up(s);
    } else if (lease_beat(s->dir.run.path, &s->dir.me, &err) < 0) {
        log_warn(&s->log, "%s", err.text);
    }
}

static void on_interrupt(void *arg, int signo)
{
    struct supervisor *s = arg;
    s->signo = signo;
    if (s->slurm) {                   /* Slurm's signals come to everyone and more than once; what takes too long it kills itself */
        bool first = !slurm_run_signalled(s->slurm);
        const char *text = slurm_run_signal(s->slurm, signo);
        if (first) {
            char note[120];
            snprintf(note, sizeof note, "%s: saving a checkpoint and stopping", text);
            live_note(s->live, note);
            live_want_stop(s->live);
        }
        return;
    }
    s->interrupts++;
    if (s->interrupts == 1) {
        live_note(s->live, "saving a checkpoint and stopping; once more ends at once");
        live_want_stop(s->live);
    } else {
        give_up(s);
    }
}

/* Slurm's signal comes up to a minute early, or was lost before anybody listened. */
static void on_drain_time(void *arg)
{
    struct supervisor *s = arg;
    uint64_t left = slurm_run_signalled(s->slurm) ? UINT64_MAX : slurm_run_drain_in_ms(s->slurm);
    if (left == 0)
        on_interrupt(s, SIGUSR1);
    else if (left != UINT64_MAX)
        timer_start(s->loop, left, 0, on_drain_time, s);
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
    if (s->slurm && !site && slurm_run_address(s->slurm)) {
        m->argv[n++] = "--host";
        m->argv[n++] = slurm_run_address(s->slurm);
    }
    m->once = n;
    if (flag)
        m->argv[n++] = flag;
    for (const char *const *e = s->slurm && !site ? slurm_run_ended(s->slurm) : NULL; e && *e; e++)
        m->argv[n++] = *e;
}

/* The agents of a Slurm site: a step on each of its nodes. */
static void add_steps(struct supervisor *s, unsigned site)
{
    for (unsigned node = 0; node < s->job.spec.sites[site].nodes; node++) {
        add_minder(s, "agent", s->job.spec.sites[site].name, NULL);
        struct minder *m = &s->minder[s->minder_count - 1];
        size_t n = strlen(m->name);
        if (node)
            snprintf(m->name + n, sizeof m->name - n, ".%u", node);
        m->step = calloc(1, sizeof *m->step);
        CHECK(m->step != NULL);
        slurm_run_step(s->slurm, site, node, m->step);
    }
}

/* Sites that join find the coordinator at its address, and parameter servers at the same host. */
static int expect_visitors(const struct supervisor *s, struct err *err)
{
    const struct job_spec *spec = &s->job.spec;
    char path[700], host[120], address[ADDRESS_LIMIT];
    for (unsigned i = 0; i < spec->site_count; i++) {
        if (spec->sites[i].via != VIA_JOIN)
            continue;
        snprintf(host, sizeof host, "%.*s", (int)(strrchr(spec->address, ':') - spec->address), spec->address);
        if (setenv("VIADUCT_HOST_ADDRESS", host, 0) < 0)
            return err_errno(err, errno, "cannot tell where this host is");
        TRY(enrol_make_token(s->dir.run.path, s->dir.run.job, spec, i, false, path, err));
        fprintf(stderr, "site %s joins from its machine with: viaduct join %s --site %s --token FILE   (FILE: %s, good once)\n", spec->sites[i].name,
                enrol_address(spec, s->dir.run.job, address), spec->sites[i].name, path);
    }
    return 0;
}

static int start_all(struct supervisor *s, const char *external_site, struct err *err)
{
    TRY(expect_visitors(s, err));
    TRY(loop_new(&s->loop, err));
    if (pipe2(s->parent_pipe, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot make a pipe");
    snprintf(s->parent_env, sizeof s->parent_env, "VIADUCT_PARENT_FD=%d", s->parent_pipe[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    TRY(live_open(s->loop, &s->dir.run, &s->live, err));
    TRY(loop_on_signal(s->loop, SIGINT, on_interrupt, s, err));
    TRY(loop_on_signal(s->loop, SIGTERM, on_interrupt, s, err));
    if (s->slurm)
        TRY(loop_on_signal(s->loop, SIGUSR1, on_interrupt, s, err));
    add_minder(s, "coordinator", NULL, "--fresh");
    for (unsigned i = 0; i < s->job.spec.site_count; i++) {
        const char *site = s->job.spec.sites[i].name;
        if (s->job.spec.sites[i].via == VIA_JOIN)
            continue;
        bool external = external_site && strcmp(site, external_site) == 0;
        if (s->job.spec.sites[i].via == VIA_SLURM)
            add_steps(s, i);
        else
            add_minder(s, "agent", site, external ? "--external-gang" : NULL);
    }
    for (unsigned i = 0; i < s->minder_count; i++)
        TRY(start(&s->minder[i], err));
    timer_start(s->loop, 100, TICK_MS, on_tick, s);
    if (s->slurm)
        on_drain_time(s);
    return 0;
}

/* ---- before the start ---- */
/* The gang of a site that is `via: mpirun` is launched by its agent with mpirun, unless mpirun started this run as that gang. */
static int check_sites(const struct job_spec *spec, const struct args *a, struct err *err)
{
    const char *external = args_value(a, "--external-gang");
    char path[512];
    for (unsigned i = 0; i < spec->site_count; i++) {
        const struct job_site *site = &spec->sites[i];
        if (site->via != VIA_MPIRUN || (external && strcmp(site->name, external) == 0))
            continue;
        if (args_value(a, "--worker"))
            return err_set(err, ERR_USAGE, "site '%s' is `via: mpirun`: --worker with mpirun is not done yet; make it `via: local`", site->name);
        if (slurm_find("mpirun", path, sizeof path, err) < 0)
            return err_set(err, ERR_USAGE, "site '%s' is `via: mpirun`, and there is no mpirun on this host: apt-get install openmpi-bin, or make it `via: local`", site->name);
    }
    return 0;
}

/* --site names the site that an MPI world is the gang of; without one it would do nothing, and nobody would notice. */
static int check_site_option(const struct job_spec *spec, const char *site, struct err *err)
{
    const char *names[SITES_MAX];
    unsigned i = 0;
    if (!site)
        return 0;
    for (; i < spec->site_count && strcmp(spec->sites[i].name, site) != 0; i++)
        names[i] = spec->sites[i].name;
    if (i < spec->site_count)
        return err_set(err, ERR_USAGE, "--site %s makes an MPI world the gang of that site: start the run with mpirun -n N viaduct run SPEC --site %s, or leave --site out",
                       site, site);
    const char *nearest = nearest_name(site, names, spec->site_count);
    return err_set(err, ERR_USAGE, "--site %s: the spec has no site of that name%s%s%s", site, nearest ? "; did you mean '" : "", nearest ? nearest : "",
                   nearest ? "'?" : "");
}

/* A plan that cannot be made stops nobody: it predicts, the coordinator places. */
static void show_plan(const struct supervisor *s)
{
    struct err err = ERR_INIT;
    struct run_plan *plan;
    char path[700], *text = NULL;
    size_t size = 0;
    if (run_plan_make(&s->job.spec, &plan, &err) < 0) {
        fprintf(stderr, "viaduct run: no prediction: %s\n", err.text);
        return;
    }
    const char *worker = getenv("VIADUCT_WORKER");
    cli_print_plan(plan, worker && *worker ? worker : NULL, stderr);
    snprintf(path, sizeof path, "%s/plan.json", s->dir.run.path);
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    int rc = cli_print_plan_json(plan, worker && *worker ? worker : NULL, f);
    if (fclose(f) != 0 || rc != 0 || fs_publish_file(&fs_real, path, text, size, &err) < 0)
        fprintf(stderr, "viaduct run: plan.json was not written%s%s\n", err.code ? ": " : "", err.text);
    free(text);
    run_plan_free(plan);
}

/* Ranks of one's own: the agents start this program. */
static int own_worker(const char *program, struct err *err)
{
    char real[PATH_MAX];
    if (!program)
        return unsetenv("VIADUCT_WORKER") == 0 ? 0 : err_errno(err, errno, "--worker");
    if (!realpath(program, real) || access(real, X_OK) < 0) {
        int why = errno;
        return err_set(err, ERR_USAGE, "--worker %s cannot be started: %s", program, strerror(why));
    }
    return setenv("VIADUCT_WORKER", real, 1) == 0 ? 0 : err_errno(err, errno, "--worker");
}

/* ---- the end ---- */
/* The last line: who reads stdout gets the report's path and nothing else. */
static void print_path(const char *dir)
{
    char path[PATH_MAX + 32], real[PATH_MAX];
    snprintf(path, sizeof path, "%s/report.json", realpath(dir, real) ? real : dir);
    if (access(path, R_OK) < 0)
        return;
    printf("report: %s\n", path);
    fflush(stdout);
}

static void print_report(const char *dir)
{
    live_summary(dir, stderr);
    print_path(dir);
}

/* The last words of a process that gave up. */
static void reason_of(const struct supervisor *s, const struct minder *m, char *out, size_t size)
{
    char path[700], line[600];
    snprintf(path, sizeof path, "%s/log/%s.out", s->dir.run.path, m->name);
    last_line_of(path, line, sizeof line);
    if (line[0])
        snprintf(out, size, "%s ended with code %d: %s", m->name, m->code, line);
    else
        snprintf(out, size, "%s ended with code %d; see %s/log", m->name, m->code, s->dir.run.path);
}

/* A coordinator that was killed, or could not be kept alive, has not told the end. */
static void tell_end(struct supervisor *s, const char *reason)
{
    char path[700], status[32];
    struct err err = ERR_INIT;
    rundirs_status(s->dir.run.path, status, sizeof status);
    if (*status && strcmp(status, "running") != 0)
        return;
    const char *end = s->interrupts ? "stopped" : "failed", *error = s->interrupts ? NULL : *reason ? reason : "its processes ended without a word";
    if (report_close(s->dir.run.path, s->job.spec.name, end, error, &err) < 0)
        log_error(&s->log, "%s", err.text);
    snprintf(path, sizeof path, "%s/events.jsonl", s->dir.run.path);
    FILE *events = fopen(path, "ae");
    report_event(events, end, "run", 0, error ? error : "ended at once on request");
    if (events)
        fclose(events);
}

/* What a resume cannot help, it is not offered for: a spec that is wrong, a door that is closed, copies that are lost. */
static bool can_go_on(int code)
{
    return code != err_exit_code(ERR_USAGE) && code != err_exit_code(ERR_NOT_FOUND) && code != err_exit_code(ERR_DENIED);
}

static void print_resume(const struct supervisor *s, int code)
{
    bool failed = s->cause && !s->interrupts && code != err_exit_code(ERR_TEMPORARY);
    if (!can_go_on(s->cause && !s->interrupts ? code : 0))
        return;
    fprintf(stderr, "%s", failed && !rundirs_diverged(s->dir_name) ? "once that is mended, " : "");
    rundirs_print_resume(s->dir_name, stderr);
}

static int outcome(struct supervisor *s)
{
    char status[32], reason[800] = "";
    if (s->cause && s->interrupts < 2)
        reason_of(s, s->cause, reason, sizeof reason);
    tell_end(s, reason);
    rundirs_status(s->dir.run.path, status, sizeof status);
    if (*reason)
        fprintf(stderr, "viaduct run: %s\n", reason);
    live_summary(s->dir.run.path, stderr);
    if (strcmp(status, "completed") != 0)
        print_resume(s, s->cause ? s->cause->code : 0);
    print_path(s->dir.run.path);
    if (slurm_run_signalled(s->slurm) && s->signo == SIGUSR1 && strcmp(status, "stopped") == 0)
        return 0;                     /* as planned */
    if (s->interrupts >= 2 || (s->signo && strcmp(status, "completed") != 0))
        return 128 + s->signo;
    if (s->cause)
        return s->cause->code;
    return strcmp(status, "completed") == 0 || strcmp(status, "stopped") == 0 ? 0 : 3;
}

/* For the line that resumes: an MPI world is started again by mpirun, a trainer of one's own named again, a Slurm job submitted again. */
static int keep_words(struct supervisor *s, const struct args *a, struct err *err)
{
    char before[200] = "", after[PATH_MAX + 200] = "";
    const char *site = args_value(a, "--external-gang"), *worker = getenv("VIADUCT_WORKER");
    for (unsigned i = 0; site && i < s->job.spec.site_count; i++)
        if (strcmp(s->job.spec.sites[i].name, site) == 0)
            mpirun_words(s->job.spec.sites[i].ranks, before, sizeof before);
    if (slurm_first_site(&s->job.spec) >= 0) {
        char verb[] = "submit", option[] = "--dir", spec[PATH_MAX];
        snprintf(spec, sizeof spec, "%s/spec.yaml", s->dir.run.path);
        return rundirs_keep_command(s->dir.run.path, "", 4, (char *[]){verb, spec, option, s->dir.run.path}, err);
    }
    if (site)
        snprintf(after, sizeof after, "--site %s", site);
    else if (args_value(a, "--worker") && worker)
        snprintf(after, sizeof after, "--worker '%s'", worker);
    return rundirs_keep_words(&s->dir.run, before, after, err);
}

/* *code: of a run that needs no supervision, or -1. */
static int prepare(struct supervisor *s, const struct args *a, int *code, struct err *err)
{
    bool completed = false, resume = args_value(a, "--resume") != NULL;
    snprintf(s->fallback_dir, sizeof s->fallback_dir, "runs/%s", s->job.spec.name);
    const char *dir = s->dir_name = args_value(a, "--dir") ? args_value(a, "--dir") : s->fallback_dir;
    *code = -1;
    if (!args_value(a, "--external-gang"))   /* else the supervisor of an MPI world, which has used --site */
        TRY(check_site_option(&s->job.spec, args_value(a, "--site"), err));
    TRY(check_sites(&s->job.spec, a, err));
    TRY(slurm_run_check(&s->job.spec, err));
    TRY(own_worker(args_value(a, "--worker"), err));
    if (resume)
        TRY(rundirs_completed(dir, &s->job, &completed, err));
    if (completed) {
        print_report(dir);
        *code = 0;
        return 0;
    }
    TRY(rundirs_open(&s->dir, dir, &s->job, resume, err));
    s->opened = true;
    if (resume)                           /* the lock may have been waited for while another `run` completed it */
        TRY(rundirs_completed(dir, &s->job, &completed, err));
    if (completed) {
        print_report(dir);
        *code = 0;
        return 0;
    }
    TRY(keep_words(s, a, err));
    TRY(slurm_run_open(&s->job.spec, slurm_first_site(&s->job.spec), &s->dir.run, &s->slurm, err));
    return rundirs_identities(&s->dir.run, &s->job.spec, err);
}

static int supervise(struct supervisor *s, const struct args *a, int *code, struct err *err)
{
    char path[700];
    TRY(prepare(s, a, code, err));
    if (*code >= 0)
        return 0;
    snprintf(path, sizeof path, "%s/log/run.jsonl", s->dir.run.path);
    log_open(&s->log, path, "run", s->dir.run.job);
    show_plan(s);
    TRY(start_all(s, args_value(a, "--external-gang"), err));
    loop_run(s->loop);
    live_close(s->live);
    s->live = NULL;
    if (s->superseded) {
        *code = err_exit_code(ERR_CONFLICT);
        return err_set(err, ERR_CONFLICT, "Slurm has started this job again elsewhere: this start of it ended without a word to the run");
    }
    mpi_world_take_terminal();
    *code = outcome(s);
    return 0;
}

/* Everything is written and closed: Slurm may end this process from here on. */
static int end_under_slurm(struct supervisor *s, const char *run_dir, int code)
{
    char status[32];
    rundirs_status(run_dir, status, sizeof status);
    if (!s->superseded)
        code = slurm_run_end(s->slurm, status, code);
    slurm_run_free(s->slurm);
    return code;
}

int verb_run(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0 || args_one_spec(&a, "run SPEC [--dir RUN] [--resume] [key.path=value ...]", &err) < 0)
        return cli_fail("run", &err);
    struct mpi_environment world = mpi_environment_read();
    if (join_check_run(&a, &err) < 0)
        return world.rank == 0 ? cli_fail("run", &err) : err_exit_code(err.code);
    bool visiting = args_value(&a, "--coordinator") != NULL;
    if (world.ranks) {
        struct mpi_run run = {.spec = a.positional[0], .dir = args_value(&a, "--dir"), .site = args_value(&a, "--site"), .visiting = visiting,
                              .resume = args_value(&a, "--resume") != NULL, .own_worker = args_value(&a, "--worker") != NULL, .args = &a, .argc = argc, .argv = argv};
        return mpi_world_run(world, &run);
    }
    mpi_environment_forget();             /* of the world that a supervisor was started by */
    mpi_world_keep_terminal();
    if (visiting)
        return join_run(&a, argc, argv);
    struct supervisor *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int code = 0, rc = cli_load_spec("run", &s->job, a.positional[0], &a, true);
    if (rc == 0 && (rc = supervise(s, &a, &code, &err)) < 0)
        cli_fail("run", &err);
    if (rc < 0)
        code = err_exit_code(rc);
    if (s->opened)
        rundirs_close(&s->dir);
    live_close(s->live);
    if (s->loop)
        loop_free(s->loop);
    log_close(&s->log);
    if (s->slurm)
        code = end_under_slurm(s, s->dir.run.path, code);
    for (unsigned i = 0; i < s->minder_count; i++)
        free(s->minder[i].step);
    job_fini(&s->job);
    free(s);
    return code;
}
