/* `viaduct join`: this machine becomes a site of a running job. A token gets it the files of a run directory; then an agent does the rest, is started
 * again when it dies and dials again when the coordinator was out of reach. `token` makes another token, `drain` sends a site away. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/live.h"
#include "cli/rundirs.h"
#include "cli/slurm_run.h"
#include "coordinator/coordinator.h"
#include "net/net.h"
#include "slurm/slurm.h"

#define ANSWER_MS 10000
#define AGAIN_MS 1000
#define PATIENCE_MS 600000            /* without a coordinator, before this machine gives up */
#define QUICK_MS 2000
#define QUICK_MAX 5

struct joining {
    const char *verb_dir, *address, *site;
    char dir[PATH_MAX], tls_address[ADDRESS_LIMIT];
    struct enrol_token token;
    /* the question */
    struct loop *loop;
    bool answered;
    char job_name[128];
    struct err err;
    /* the agent */
    struct rundir run;
    pid_t agent;
    int parent_pipe[2];
    unsigned interrupts, quick;
    uint64_t started_ms, lost_since_ms;
    int code;
    /* the Slurm job that it lives in, if it does */
    struct job *job;
    struct slurm_run *slurm;
    uint64_t drain_ms;                /* when to look whether the time limit is near; UINT64_MAX: never */
};

/* ---- enrolment ---- */
static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct joining *j = arg;
    struct msg_enrol m = {{0}, {0}};
    (void)peer;
    snprintf(m.site, sizeof m.site, "%s", j->token.site);
    snprintf(m.secret, sizeof m.secret, "%s", j->token.secret);
    link_send(link, MSG_ENROL, 0, &m, NULL, 0, &j->err);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct joining *j = arg;
    (void)link;
    if (type == MSG_FAILED) {
        const struct msg_failed *m = msg;
        err_set(&j->err, m->code, "%s", m->text);
    } else if (type == MSG_ENROLLED) {
        snprintf(j->job_name, sizeof j->job_name, "%s", ((struct msg_enrolled *)msg)->name);
        j->answered = enrol_unpack(j->dir, j->token.site, payload, size, &j->err) == 0;
    } else {
        return;
    }
    loop_stop(j->loop);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct joining *j = arg;
    (void)link;
    if (!j->answered && j->err.code == 0)
        j->err = *why;
    loop_stop(j->loop);
}

static void on_late(void *arg)
{
    struct joining *j = arg;
    if (!j->answered && j->err.code == 0)
        err_set(&j->err, ERR_TEMPORARY, "%s does not answer", j->address);
    loop_stop(j->loop);
}

static int ask(struct joining *j, const struct identity *identity, struct err *err)
{
    static const struct link_ops ops = {on_opened, on_message, on_closed};
    struct msg_hello hello = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_JOIN, .site = (uint8_t)j->token.index}};
    struct link *link;
    snprintf(hello.job, sizeof hello.job, "%s", j->token.job);
    snprintf(hello.build, sizeof hello.build, "%s", VIADUCT_VERSION);
    TRY(net_dial(j->loop, j->tls_address, identity, &hello, &ops, j, &link, err));
    timer_start(j->loop, ANSWER_MS, 0, on_late, j);
    loop_run(j->loop);
    if (j->answered)
        return 0;
    *err = j->err;
    return err->code ? err->code : err_set(err, ERR_TEMPORARY, "%s does not answer", j->address);
}

static int write_address(const struct joining *j, struct err *err)
{
    char path[PATH_MAX + 64], text[ADDRESS_LIMIT + 2];
    snprintf(path, sizeof path, "%s/state/coordinator.addr", j->dir);
    snprintf(text, sizeof text, "%s\n", j->tls_address);
    return fs_publish_file(&fs_real, path, text, strlen(text), err);
}

/* Where this machine has the data: overrides of the spec's data.* keys, nothing else. */
static int own_data(const struct joining *j, const struct args *a, struct err *err)
{
    char path[PATH_MAX + 64];
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    for (unsigned i = 0; i < a->override_count; i++)
        if (strncmp(a->override[i], "data.train.", 11) != 0 && strncmp(a->override[i], "data.eval.", 10) != 0) {
            free(job);
            return err_set(err, ERR_USAGE, "%s: only data.train.* and data.eval.* can differ on this machine", a->override[i]);
        }
    snprintf(path, sizeof path, "%s/spec.yaml", j->dir);
    int rc = job_load(job, path, a->override, a->override_count, true, err);
    if (rc == ERR_USAGE) {
        problems_print(&job->problems, stderr);
        err_set(err, rc, "this machine cannot read the job's data where the spec has it; name its place: data.train.images=FILE data.train.labels=FILE");
    }
    if (rc == 0)
        rc = fs_publish_file(&fs_real, path, job->resolved_yaml, strlen(job->resolved_yaml), err);
    job_fini(job);
    free(job);
    return rc;
}

static int make_folders(struct joining *j, struct err *err)
{
    static const char *const folders[] = {"log", "state", "state/tls", "ckpt"};
    char path[PATH_MAX + 80], *real;
    TRY(fs_mkdirs(&fs_real, j->verb_dir, err));
    real = realpath(j->verb_dir, NULL);
    if (!real)
        return err_errno(err, errno, "cannot resolve %s", j->verb_dir);
    snprintf(j->dir, sizeof j->dir, "%s", real);
    free(real);
    for (unsigned i = 0; i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", j->dir, folders[i]);
        TRY(fs_mkdirs(&fs_real, path, err));
        if (i && chmod(path, 0700) < 0)
            return err_errno(err, errno, "cannot protect %s", path);
    }
    snprintf(path, sizeof path, "%s/ckpt/%s", j->dir, j->site);
    return fs_mkdirs(&fs_real, path, err);
}

static int enrol(struct joining *j, const char *token_file, struct err *err)
{
    struct identity *identity;
    char path[PATH_MAX + 80];
    TRY(enrol_read_token(token_file, j->dir, &j->token, err));
    if (strcmp(j->token.site, j->site) != 0)
        return err_set(err, ERR_USAGE, "%s is a token of site '%s', not of '%s'", token_file, j->token.site, j->site);
    snprintf(path, sizeof path, "%s/state/tls", j->dir);
    TRY(identity_load(path, j->site, ROLE_JOIN, &identity, err));
    int rc = loop_new(&j->loop, err);
    if (rc == 0)
        rc = ask(j, identity, err);
    identity_free(identity);
    if (j->loop)
        loop_free(j->loop);
    j->loop = NULL;
    return rc;
}

/* A folder that is enrolled already goes on with what it has: the token was for once. */
static int enrolled_already(const struct joining *j, bool *already, struct err *err)
{
    char path[PATH_MAX + 160];
    snprintf(path, sizeof path, "%s/state/job", j->dir);
    *already = access(path, F_OK) == 0;
    if (!*already)
        return 0;
    snprintf(path, sizeof path, "%s/state/tls/agent-%s.pem", j->dir, j->site);
    return access(path, F_OK) == 0 ? 0 : err_set(err, ERR_CONFLICT, "%s holds another site; choose another --dir", j->dir);
}

/* ---- the agent ---- */
static int start_agent(struct joining *j, struct err *err)
{
    char parent[40], log[PATH_MAX + 160];
    const char *argv[] = {"agent", "--run", j->dir, "--site", j->site, NULL}, *env[] = {parent, "VIADUCT_VISITING=1", NULL};
    snprintf(parent, sizeof parent, "VIADUCT_PARENT_FD=%d", j->parent_pipe[0]);
    snprintf(log, sizeof log, "%s/log/agent-%s.out", j->dir, j->site);
    struct launch what = {.argv = argv, .env = env, .output_path = log, .keep_fd = j->parent_pipe[0], .own_session = true};
    j->started_ms = clock_now_ms();
    return launch_local(&what, &j->agent, err);
}

static volatile sig_atomic_t interrupted, newest_signal;   /* a signal handler has no other way to say it */
static void on_signal(int signo) { newest_signal = signo; interrupted++; }

/* ---- inside a Slurm job ---- */
/* RUN/state/start tells an agent that Slurm lost, and started again elsewhere, that it is not the one any more. */
static int open_slurm(struct joining *j, struct err *err)
{
    char path[PATH_MAX + 64], start[64];
    struct slurm_environment env = slurm_environment_read();
    int site = -1;
    if (!env.inside)
        return 0;
    j->job = calloc(1, sizeof *j->job);
    CHECK(j->job != NULL);
    snprintf(path, sizeof path, "%s/spec.yaml", j->dir);
    TRY(job_load(j->job, path, NULL, 0, false, err));
    for (unsigned i = 0; i < j->job->spec.site_count; i++)
        if (strcmp(j->job->spec.sites[i].name, j->site) == 0)
            site = (int)i;
    snprintf(path, sizeof path, "%s/state/start", j->dir);
    snprintf(start, sizeof start, "%llu.%u\n", (unsigned long long)env.job, env.restart);
    TRY(fs_publish_file(&fs_real, path, start, strlen(start), err));
    return slurm_run_open(&j->job->spec, site, &j->run, &j->slurm, err);
}

/* Its signals come to everyone and more than once: the first makes the site leave, and what takes too long Slurm kills itself. */
static void leave_for_slurm(struct joining *j)
{
    int signo = (unsigned)interrupted == j->interrupts ? 0 : newest_signal;
    bool first = !slurm_run_signalled(j->slurm);
    j->interrupts = (unsigned)interrupted;
    if (first && signo == 0 && clock_now_ms() >= j->drain_ms) {
        uint64_t left = slurm_run_drain_in_ms(j->slurm);
        j->drain_ms = left == UINT64_MAX ? left : clock_now_ms() + left;
        signo = left == 0 ? SIGUSR1 : 0;
    }
    if (!signo)
        return;
    const char *text = slurm_run_signal(j->slurm, signo);
    if (!first)
        return;
    fprintf(stderr, "%s: leaving, lanes and copies move to the other sites\n", text);
    if (j->agent)
        kill(j->agent, SIGUSR1);
}

static void drain_or_kill(struct joining *j)
{
    if (j->slurm) {
        leave_for_slurm(j);
        return;
    }
    if ((unsigned)interrupted == j->interrupts || !j->agent)
        return;
    j->interrupts = (unsigned)interrupted;
    if (j->interrupts == 1)
        fprintf(stderr, "leaving: lanes and copies move to the other sites; once more ends at once\n");
    kill(j->agent, j->interrupts == 1 ? SIGUSR1 : SIGTERM);
}

/* Whether the agent is to be started again. */
static bool agent_ended(struct joining *j, int status)
{
    uint64_t now = clock_now_ms();
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    j->agent = 0;
    j->code = code;
    if (code == 0 || j->interrupts || slurm_run_signalled(j->slurm) || code == 2 || code == 3 || code == 5)   /* 3: sent away, and would be again */
        return false;
    j->quick = now - j->started_ms < QUICK_MS ? j->quick + 1 : 0;
    if (code == 75 && !j->lost_since_ms)
        j->lost_since_ms = now;
    else if (code != 75)
        j->lost_since_ms = 0;
    return j->quick < QUICK_MAX && !(j->lost_since_ms && now - j->lost_since_ms > PATIENCE_MS);
}

static int supervise(struct joining *j, struct err *err)
{
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    if (j->slurm)
        sigaction(SIGUSR1, &act, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (pipe2(j->parent_pipe, O_CLOEXEC) < 0)
        return err_errno(err, errno, "cannot make a pipe");
    TRY(start_agent(j, err));
    for (;;) {
        int status;
        pid_t gone = waitpid(-1, &status, WNOHANG);
        if (gone == j->agent && gone > 0) {
            if (!agent_ended(j, status))
                return 0;
            nanosleep(&(struct timespec){AGAIN_MS / 1000, 0}, NULL);
            TRY(start_agent(j, err));
        } else if (gone <= 0) {
            nanosleep(&(struct timespec){0, 100000000}, NULL);
        }
        drain_or_kill(j);
    }
}

static int verb_fail_with_words(const struct joining *j)
{
    char path[PATH_MAX + 160], line[600];
    snprintf(path, sizeof path, "%s/log/agent-%s.out", j->dir, j->site);
    last_line_of(path, line, sizeof line);
    fprintf(stderr, "viaduct join: the agent ended with code %d%s%s; see %s/log\n", j->code, line[0] ? ": " : "", line, j->dir);
    return j->code;
}

int verb_join(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    char fallback[160];
    bool already = false;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("join", &err);
    if (a.positional_count != 1 || !args_value(&a, "--site") || !args_value(&a, "--token")) {
        args_usage(&a, &err);
        return cli_fail("join", &err);
    }
    struct joining j = {.address = a.positional[0], .site = args_value(&a, "--site"), .verb_dir = args_value(&a, "--dir"), .parent_pipe = {-1, -1}};
    snprintf(fallback, sizeof fallback, "runs/join-%.100s", j.site);
    j.verb_dir = j.verb_dir ? j.verb_dir : fallback;
    snprintf(j.tls_address, sizeof j.tls_address, "tls:%.150s", j.address);
    int rc = make_folders(&j, &err);
    if (rc == 0)
        rc = enrolled_already(&j, &already, &err);
    if (rc == 0)
        rc = already ? 0 : enrol(&j, args_value(&a, "--token"), &err);
    if (rc == 0)
        rc = write_address(&j, &err);
    if (rc == 0)
        rc = own_data(&j, &a, &err);   /* again: it may have been wrong when the token was used */
    if (rc == 0)
        rc = rundir_open(&j.run, j.dir, &err);
    if (rc == 0)
        rc = open_slurm(&j, &err);
    if (rc < 0)
        return cli_fail("join", &err);
    fprintf(stderr, "site %s of job %s%s%s: this machine works for it now; Ctrl-C leaves in good order\n", j.site, j.run.job, j.job_name[0] ? ", " : "", j.job_name);
    if (supervise(&j, &err) < 0)
        return cli_fail("join", &err);
    int code = 0;
    if (j.code != 0 && !j.interrupts && !slurm_run_signalled(j.slurm))
        code = verb_fail_with_words(&j);
    else
        fprintf(stderr, "site %s has left\n", j.site);
    if (j.slurm)
        code = slurm_run_end(j.slurm, code == 0 && !slurm_run_signalled(j.slurm) ? "completed" : "", code);
    slurm_run_free(j.slurm);
    if (j.job)
        job_fini(j.job);
    free(j.job);
    return code;
}

/* ---- token, drain ---- */
static int find_site(const char *run_dir, const char *site, struct job *job, unsigned *index, struct err *err)
{
    char path[PATH_MAX];
    const char *names[SITES_MAX];
    snprintf(path, sizeof path, "%s/spec.yaml", run_dir);
    TRY(job_load(job, path, NULL, 0, false, err));
    for (*index = 0; *index < job->spec.site_count; (*index)++) {
        names[*index] = job->spec.sites[*index].name;
        if (strcmp(names[*index], site) == 0)
            return job->spec.sites[*index].via == VIA_JOIN ? 0 : err_set(err, ERR_USAGE, "site '%s' is not `via: join`: it belongs to the run from its start", site);
    }
    const char *near = nearest_name(site, names, job->spec.site_count);
    return err_set(err, ERR_NOT_FOUND, "the run has no site named '%s'%s%s%s", site, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int with_site(const char *verb, int argc, char **argv, int (*act)(const struct rundir *run, const struct job *job, unsigned site, struct err *err))
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    unsigned site = 0;
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0 && (a.positional_count != 1 || !args_value(&a, "--site")))
        rc = args_usage(&a, &err);
    if (rc == 0)
        rc = rundir_open(&run, a.positional[0], &err);
    if (rc == 0)
        rc = find_site(run.path, args_value(&a, "--site"), job, &site, &err);
    if (rc == 0)
        rc = act(&run, job, site, &err);
    job_fini(job);
    free(job);
    return rc < 0 ? cli_fail(verb, &err) : 0;
}

static int make_token(const struct rundir *run, const struct job *job, unsigned site, struct err *err)
{
    char path[700], address[ADDRESS_LIMIT];
    TRY(enrol_make_token(run->path, run->job, &job->spec, site, path, err));
    printf("%s\n", path);
    fprintf(stderr, "good once, on the machine that becomes site %s: viaduct join %s --site %s --token FILE\n", job->spec.sites[site].name,
            enrol_address(&job->spec, run->job, address), job->spec.sites[site].name);
    return 0;
}

static int drain_site(const struct rundir *run, const struct job *job, unsigned site, struct err *err)
{
    TRY(live_drain(run, (uint8_t)site, ANSWER_MS, err));
    fprintf(stderr, "site %s leaves: its lanes and copies are with the others\n", job->spec.sites[site].name);
    return 0;
}

int verb_token(int argc, char **argv) { return with_site("token", argc, argv, make_token); }
int verb_drain(int argc, char **argv) { return with_site("drain", argc, argv, drain_site); }
