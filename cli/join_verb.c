/* `viaduct join`, `viaduct run --coordinator`: this machine becomes a site of a running job. A token gets it the files of a run directory; then an agent does the rest, is started
 * again when it dies and dials again when the coordinator was out of reach. */
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
#include "cli/join.h"
#include "cli/live.h"
#include "cli/mpi_world.h"
#include "cli/rundirs.h"
#include "cli/slurm_run.h"
#include "coordinator/coordinator.h"
#include "net/net.h"
#include "slurm/slurm.h"

#define ANSWER_MS 10000
#define AGAIN_MS 1000
#define PATIENCE_MS 600000            /* without a coordinator, before this machine gives up */
#define COMPANY_MS 120000             /* an agent that finds no coordinator ends within a minute: one that lived longer had one */
#define QUICK_MS 2000
#define QUICK_MAX 5

struct joining {
    const struct join_request *q;
    const char *address, *site;
    char dir[PATH_MAX], tls_address[ADDRESS_LIMIT];
    struct enrol_token token;
    /* the question */
    struct loop *loop;
    bool opened, answered;
    bool made;                        /* the folder: it was not there before */
    char job_name[128];
    struct err err;
    /* the agent */
    struct opened_run run;
    pid_t agent;
    int parent_pipe[2];
    unsigned interrupts;
    uint64_t started_ms;
    struct join_patience patience;
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
    j->opened = true;
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
    if (!j->answered && j->err.code == 0) {
        j->err = *why;
        const char *name = strstr(why->text, j->tls_address);   /* who the link is says nothing to a person */
        if (!j->opened && why->code == ERR_TEMPORARY && name && strncmp(name + strlen(j->tls_address), ": ", 2) == 0)
            err_set(&j->err, why->code, "no coordinator answers at %s: %s", j->address, name + strlen(j->tls_address) + 2);
    }
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

int join_check_override(const char *override, struct err *err)
{
    if (strncmp(override, "data.train.", 11) == 0 || strncmp(override, "data.eval.", 10) == 0)
        return 0;
    return err_set(err, ERR_USAGE, "%s: only data.train.* and data.eval.* can differ on this machine", override);
}

/* "key='path'", as YAML has it. */
static void add_path(struct args *a, char out[PATH_MAX + 40], const char *key, const char *path)
{
    size_t n = (size_t)snprintf(out, PATH_MAX + 40, "%s='", key);
    for (; *path && n + 4 < PATH_MAX + 40; path++) {
        out[n++] = *path;
        if (*path == '\'')
            out[n++] = '\'';
    }
    snprintf(out + n, 2, "'");
    a->override[a->override_count++] = out;
}

/* The run's spec, with where this machine has the data: as its own spec or the command line says. Nothing else may differ. */
static int own_data(const struct joining *j, const struct job *given, struct err *err)
{
    char path[PATH_MAX + 64], text[4][PATH_MAX + 40];
    struct args from_spec = {0};
    const struct args *a = given ? &from_spec : j->q->args;
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    snprintf(path, sizeof path, "%s/spec.yaml", j->dir);
    if (given) {
        add_path(&from_spec, text[0], "data.train.images", given->spec.train.images);
        add_path(&from_spec, text[1], "data.train.labels", given->spec.train.labels);
    }
    if (given && given->spec.has_eval) {
        add_path(&from_spec, text[2], "data.eval.images", given->spec.eval.images);
        add_path(&from_spec, text[3], "data.eval.labels", given->spec.eval.labels);
    }
    int rc = 0;
    for (unsigned i = 0; i < a->override_count && rc == 0; i++)
        rc = join_check_override(a->override[i], err);
    if (rc == 0)
        rc = job_load(job, path, a->override, a->override_count, true, err);
    if (rc == ERR_USAGE && job->problems.count) {
        problems_print(&job->problems, stderr);
        err_set(err, rc, "this machine cannot read the job's data where the spec has it; name its place: data.train.images=FILE data.train.labels=FILE");
    }
    if (rc == 0)
        rc = fs_publish_file(&fs_real, path, job->resolved_yaml, strlen(job->resolved_yaml), err);
    job_fini(job);
    free(job);
    return rc;
}

/* What this machine was given says nothing that the run's spec does not. */
static int check_spec(const struct joining *j, const struct job *given, struct err *err)
{
    char path[PATH_MAX + 64];
    struct job *theirs = calloc(1, sizeof *theirs);
    CHECK(theirs != NULL);
    snprintf(path, sizeof path, "%s/spec.yaml", j->dir);
    int rc = job_load(theirs, path, NULL, 0, false, err);
    if (rc == 0)
        rc = job_agree(theirs, given, j->site, err);
    job_fini(theirs);
    free(theirs);
    return rc;
}

static int make_folders(struct joining *j, struct err *err)
{
    static const char *const folders[] = {"log", "state", "state/tls", "ckpt"};
    char path[PATH_MAX + 80], *real;
    join_default_dir(j->site, j->q->dir, path, sizeof path);
    j->made = access(path, F_OK) < 0 && errno == ENOENT;
    TRY(fs_mkdirs(&fs_real, path, err));
    real = realpath(path, NULL);
    if (!real)
        return err_errno(err, errno, "cannot resolve %s", path);
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

/* Of a first try that enrolled nothing, nothing stays; a folder that somebody else made, or has put something into, does. */
static void unmake_folders(const struct joining *j)
{
    const struct { const char *folder, *name, *end; } parts[] = {
        {"state/tls/", "ca", ".pem"}, {"state/tls/join-", j->token.site, ".pem"}, {"state/tls/join-", j->token.site, ".key"}, {"state/tls/", "lock", ""}, {"state/tls", "", ""},
        {"state/", "lock", ""}, {"state/", "supervisor", ""}, {"state", "", ""}, {"log", "", ""}, {"ckpt/", j->site, ""}, {"ckpt", "", ""}, {"", "", ""}};
    char path[PATH_MAX + 240];
    snprintf(path, sizeof path, "%s/state/job", j->dir);
    if (!j->made || access(path, F_OK) == 0)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        snprintf(path, sizeof path, "%s/%s%s%s", j->dir, parts[i].folder, parts[i].name, parts[i].end);
        remove(path);
    }
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
    char ranks[40];
    const char *argv[] = {"agent", "--run", j->dir, "--site", j->site, j->q->ranks ? "--external-gang" : NULL, NULL};
    const char *env[] = {parent, "VIADUCT_VISITING=1", ranks, NULL};
    snprintf(ranks, sizeof ranks, "VIADUCT_WORLD_RANKS=%.0u", j->q->ranks);
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
    return slurm_run_open(&j->job->spec, site, &j->run.run, &j->slurm, err);
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

bool join_again(struct join_patience *p, uint64_t lived_ms, uint64_t now_ms, bool alone)
{
    p->quick = lived_ms < QUICK_MS ? p->quick + 1 : 0;
    if (!alone)
        p->alone_since_ms = 0;
    else if (!p->alone_since_ms || lived_ms > COMPANY_MS)
        p->alone_since_ms = now_ms;
    return p->quick < QUICK_MAX && !(alone && now_ms - p->alone_since_ms > PATIENCE_MS);
}

/* Whether it is to be started again. */
static bool agent_ended(struct joining *j, int status)
{
    uint64_t now = clock_now_ms();
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    j->agent = 0;
    j->code = code;
    if (code == 0 || j->interrupts || slurm_run_signalled(j->slurm) || code == 2 || code == 3 || code == 5)   /* 3: sent away, and would be again */
        return false;
    if (code == 75 && j->q->ranks)        /* an MPI world is for once */
        return false;
    return join_again(&j->patience, now - j->started_ms, now, code == 75);
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
    char path[PATH_MAX + 160], line[600], command[RESUME_COMMAND_BYTES];
    bool world_ended = j->q->ranks && j->code == 75;
    snprintf(path, sizeof path, "%s/state/gang-told", j->dir);
    if (world_ended && access(path, F_OK) == 0) {   /* a rank has said the rest */
        fprintf(stderr, "viaduct %s: site %s has left: its MPI world ended\n", j->q->verb, j->site);
        return j->code;
    }
    snprintf(path, sizeof path, "%s/log/agent-%s.out", j->dir, j->site);
    last_line_of(path, line, sizeof line);
    fprintf(stderr, "viaduct %s: the agent ended with code %d%s%s; see %s/log\n", j->q->verb, j->code, line[0] ? ": " : "", line, j->dir);
    rundirs_resume_command(j->dir, command, sizeof command);
    if (world_ended)
        fprintf(stderr, "come again with: %s\n", command);
    return j->code;
}

/* ---- the request ---- */
void join_default_dir(const char *site, const char *dir, char *out, size_t size)
{
    snprintf(out, size, "%s%s", dir ? "" : "runs/join-", dir ? dir : site);
}

int join_find_site(const struct job_spec *spec, const char *site, unsigned *index, struct err *err)
{
    const char *names[SITES_MAX];
    for (*index = 0; *index < spec->site_count; (*index)++) {
        names[*index] = spec->sites[*index].name;
        if (strcmp(names[*index], site) == 0)
            return 0;
    }
    const char *near = nearest_name(site, names, spec->site_count);
    return err_set(err, ERR_NOT_FOUND, "the run has no site named '%s'%s%s%s", site, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int check_site(const struct join_request *q, struct err *err)
{
    unsigned index;
    if (!q->job)
        return 0;
    TRY(join_find_site(&q->job->spec, q->site, &index, err));
    return q->job->spec.sites[index].via == VIA_JOIN ? 0 : err_set(err, ERR_USAGE, "site '%s' is `via: %s`: the run starts it itself; a site that comes by token is "
                                                                  "`via: join`", q->site, job_via_word(q->job->spec.sites[index].via));
}

/* All that the agent finds in the site's folder. */
static int settle_in(struct joining *j, struct err *err)
{
    const struct join_request *q = j->q;
    bool already = false;
    char before[60];
    TRY(check_site(q, err));
    TRY(make_folders(j, err));
    j->run = (struct opened_run){.supervisor_fd = -1, .lock_fd = -1};
    if (!slurm_environment_read().inside)   /* there a start that Slurm has lost may live on: RUN/state/start ends it */
        TRY(rundirs_lock_visit(&j->run, j->dir, err));
    TRY(enrolled_already(j, &already, err));
    if (!already && enrol(j, q->token, err) < 0) {
        unmake_folders(j);
        return err->code;
    }
    TRY(write_address(j, err));
    if (q->job)
        TRY(check_spec(j, q->job, err));
    TRY(own_data(j, q->job, err));   /* again: it may have been wrong when the token was used */
    mpirun_words(q->ranks, before, sizeof before);
    TRY(rundirs_keep_command(j->dir, q->ranks ? before : "", q->argc, q->argv, err));
    TRY(rundir_open(&j->run.run, j->dir, err));
    return open_slurm(j, err);
}

/* What a person is told at the end, and the exit code. */
static int tell_end(const struct joining *j)
{
    char command[RESUME_COMMAND_BYTES];
    if (j->code != 0 && !j->interrupts && !slurm_run_signalled(j->slurm))
        return verb_fail_with_words(j);
    rundirs_resume_command(j->dir, command, sizeof command);
    bool again = j->interrupts && !j->slurm;
    fprintf(stderr, "site %s has left%s%s\n", j->site, again ? "; come again with: " : "", again ? command : "");
    return 0;
}

int join_site(const struct join_request *q)
{
    struct err err = ERR_INIT;
    struct joining j = {.q = q, .address = q->address, .site = q->site, .parent_pipe = {-1, -1}};
    snprintf(j.tls_address, sizeof j.tls_address, "tls:%.150s", j.address);
    if (settle_in(&j, &err) < 0)
        return cli_fail(q->verb, &err);
    fprintf(stderr, "site %s of job %s%s%s: this machine works for it now; Ctrl-C leaves in good order\n", j.site, j.run.run.job, j.job_name[0] ? ", " : "", j.job_name);
    int rc = supervise(&j, &err);
    rundirs_end_all(&j.run);
    if (rc < 0)
        return cli_fail(q->verb, &err);
    mpi_world_take_terminal();
    int code = tell_end(&j);
    if (j.slurm)
        code = slurm_run_end(j.slurm, code == 0 && !slurm_run_signalled(j.slurm) ? "completed" : "", code);
    slurm_run_free(j.slurm);
    if (j.job)
        job_fini(j.job);
    free(j.job);
    return code;
}

int verb_join(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("join", &err);
    if (a.positional_count != 1 || !args_value(&a, "--site") || !args_value(&a, "--token")) {
        args_usage(&a, &err);
        return cli_fail("join", &err);
    }
    struct join_request q = {.verb = "join", .address = a.positional[0], .site = args_value(&a, "--site"), .token = args_value(&a, "--token"),
                             .dir = args_value(&a, "--dir"), .args = &a, .argc = argc, .argv = argv};
    return join_site(&q);
}

/* ---- the same by `viaduct run` ---- */
int join_check_run(const struct args *a, struct err *err)
{
    if (!args_value(a, "--coordinator") && !args_value(a, "--token"))
        return 0;
    if (!args_value(a, "--coordinator") || !args_value(a, "--token") || !args_value(a, "--site"))
        return err_set(err, ERR_USAGE, "a site of a run that lives elsewhere is named by all of --site NAME --coordinator HOST:PORT --token FILE");
    if (args_value(a, "--resume") || args_value(a, "--worker"))
        return err_set(err, ERR_USAGE, "%s is for the run itself; a site that comes again needs no other words than the first time",
                       args_value(a, "--resume") ? "--resume" : "--worker");
    return 0;
}

int join_run(const struct args *a, int argc, char **argv)
{
    const char *ranks = args_value(a, "--ranks");
    struct job job;
    memset(&job, 0, sizeof job);
    struct join_request q = {.verb = "run", .address = args_value(a, "--coordinator"), .site = args_value(a, "--site"), .token = args_value(a, "--token"),
                             .dir = args_value(a, "--dir"), .args = a, .job = &job, .ranks = ranks ? (unsigned)strtoul(ranks, NULL, 10) : 0, .argc = argc, .argv = argv};
    int rc = cli_load_spec("run", &job, a->positional[0], a, true);
    int code = rc < 0 ? err_exit_code(rc) : join_site(&q);
    job_fini(&job);
    return code;
}
