#include "cli/slurm_run.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define COMMAND_MS 10000
#define BOOK_BYTES_MAX (1 << 20)
#define TRIES 12                      /* a slurmctld that is down may be back before the time limit */
#define TRY_AGAIN_S 5
#define REQUEUED_S 10                 /* Slurm's signal to what it requeues comes within this */

struct slurm_run {
    const struct job_spec *spec;
    const struct job_slurm *settings;     /* of the site that asked for this job */
    const char *verb;
    struct slurm_environment env;
    struct slurm_book book;               /* before this start was written into it */
    char path[600], run_dir[512], job[24], program[PATH_MAX], srun[PATH_MAX];
    char who[100], cause[160], ago[24], address[128], go_on[640];
    const char *ended[5];
    int64_t planned_end_s;
    bool warned, terminated;
};

static int64_t now_s(void) { return (int64_t)time(NULL); }

int slurm_run_check(const struct job_spec *spec, struct err *err)
{
    char path[PATH_MAX];
    int first = slurm_first_site(spec);
    if (first < 0)
        return 0;
    struct slurm_environment env = slurm_environment_read();
    if (!env.inside)
        return err_set(err, ERR_USAGE, "site '%s' is `via: slurm`: submit the run with viaduct submit SPEC, or make it `via: local`", spec->sites[first].name);
    if (slurm_site_count(spec) > 1 && !env.heterogeneous)
        return err_set(err, ERR_USAGE, "the spec has %u Slurm sites, and Slurm job %llu is no heterogeneous one: submit the run with viaduct submit SPEC",
                       slurm_site_count(spec), (unsigned long long)env.job);
    return slurm_find("srun", path, sizeof path, err);
}

/* ---- asking Slurm: what it does not say is not known, and no reason to stop ---- */
static void ask_job(const struct slurm_run *r, struct slurm_job *out)
{
    char text[16384];
    struct err err = ERR_INIT;
    const char *argv[] = {"scontrol", "-o", "show", "job", r->job, NULL};
    *out = (struct slurm_job){0};
    if (slurm_command(argv, COMMAND_MS, text, sizeof text, &err) == 0)
        slurm_job_parse(text, out);
    else
        fprintf(stderr, "viaduct %s: %s\n", r->verb, err.text);
}

static void ask_address(struct slurm_run *r)
{
    char text[16384];
    struct err err = ERR_INIT;
    const char *argv[] = {"scontrol", "-o", "show", "node", r->env.node, NULL};
    if (slurm_command(argv, COMMAND_MS, text, sizeof text, &err) < 0)
        fprintf(stderr, "viaduct %s: %s\n", r->verb, err.text);
    else
        slurm_node_address(text, r->address, sizeof r->address);
}

/* The state that accounting has of the last start but this one (-D: each start of a job is a line); unknown without accounting. */
static enum slurm_state ask_accounting(const struct slurm_run *r, uint64_t job, bool same_job)
{
    char text[65536], id[24];
    struct err err = ERR_INIT;
    snprintf(id, sizeof id, "%llu", (unsigned long long)job);
    const char *argv[] = {"sacct", "-n", "-P", "-D", "-X", "-j", id, "-o", "State", NULL};
    (void)r;
    if (slurm_command(argv, COMMAND_MS, text, sizeof text, &err) < 0)
        return SLURM_UNKNOWN;
    enum slurm_state state = SLURM_UNKNOWN, before = SLURM_UNKNOWN;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line) {
            before = state;
            state = slurm_state_of(line);
        }
    return same_job ? before : state;
}

/* ---- the book ---- */
/* Half a line, over which the host died or the disk became full, is none. */
static bool cut_half_a_line(int fd)
{
    off_t end = lseek(fd, 0, SEEK_END), at = end;
    char c;
    while (at > 0 && pread(fd, &c, 1, at - 1) == 1 && c != '\n')
        at--;
    return at == end || ftruncate(fd, at) == 0;
}

static int append(const struct slurm_run *r, const char *line, struct err *err)
{
    int fd = open(r->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ssize_t size = (ssize_t)strlen(line), put = fd >= 0 && cut_half_a_line(fd) ? write(fd, line, (size_t)size) : -1;
    bool ok = put == size && fsync(fd) == 0;
    int why = put >= 0 && put < size ? ENOSPC : errno;
    if (fd >= 0)
        close(fd);
    return ok ? 0 : err_errno(err, why, "cannot write %s", r->path);
}

static int append_end(const struct slurm_run *r, const char *verb, enum slurm_cause cause, int64_t at_s, struct err *err)
{
    char line[120];
    snprintf(line, sizeof line, "%s %s %lld\n", verb, slurm_cause_word(cause), (long long)at_s);
    return append(r, line, err);
}

static int read_book(struct slurm_run *r, struct err *err)
{
    void *bytes = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    if (fs_read_file(&fs_real, r->path, BOOK_BYTES_MAX, &bytes, &size, &none) < 0) {
        if (none.code == ERR_NOT_FOUND)
            return slurm_book_parse("", &r->book, err);
        *err = none;
        return none.code;
    }
    int rc = slurm_book_parse(bytes, &r->book, err);
    free(bytes);
    return rc < 0 ? err_wrap(err, "%s is damaged; remove it to begin with full retry budgets", r->path) : 0;
}

/* A start that left no word: its node died, or something killed it. Slurm has started the job again by itself, unless a person did. */
static int settle_silent_end(struct slurm_run *r, enum slurm_cause *cause, struct err *err)
{
    bool same_job = r->book.job == r->env.job;
    enum slurm_state state = ask_accounting(r, r->book.job, same_job);
    *cause = !same_job && state == SLURM_UNKNOWN ? CAUSE_NONE : slurm_why_silent(state);
    bool may = !same_job || slurm_may_retry(&r->book, *cause, r->settings->retries);
    TRY(append_end(r, "end", *cause, r->book.last_s, err));
    if (may)
        return 0;
    return err_set(err, ERR_JOB, "Slurm started the job again after a %s, and slurm.retries.%s allows that %u times: submit it again to go on", slurm_cause_text(*cause),
                   slurm_cause_word(*cause), (unsigned)(*cause < (enum slurm_cause)RETRIES ? r->settings->retries[*cause] : 0));
}

/* ---- start ---- */
static void tell_ended(struct slurm_run *r, enum slurm_cause cause)
{
    int64_t ago = now_s() - r->book.last_s;
    snprintf(r->cause, sizeof r->cause, "%s (Slurm job %llu, start %u)", slurm_cause_text(cause), (unsigned long long)r->book.job, r->book.restart);
    snprintf(r->ago, sizeof r->ago, "%lld", (long long)MAX(ago, (int64_t)0) * 1000);
    r->ended[0] = "--ended";
    r->ended[1] = r->who;
    r->ended[2] = r->cause;
    r->ended[3] = r->ago;
}

static int begin(struct slurm_run *r, struct err *err)
{
    char line[200];
    enum slurm_cause cause = CAUSE_NONE;
    TRY(slurm_find("srun", r->srun, sizeof r->srun, err));
    ssize_t n = readlink("/proc/self/exe", r->program, sizeof r->program - 1);
    if (n < 0)
        return err_errno(err, errno, "cannot find our own program");
    r->program[n] = '\0';
    TRY(read_book(r, err));
    if (r->book.open)
        TRY(settle_silent_end(r, &cause, err));
    else
        cause = r->book.last;
    if (r->book.starts > 0)
        tell_ended(r, cause);
    snprintf(line, sizeof line, "start %llu %u %s %lld\n", (unsigned long long)r->env.job, r->env.restart, r->env.node, (long long)now_s());
    TRY(append(r, line, err));
    return read_book(r, err);
}

int slurm_run_open(const struct job_spec *spec, int site, const struct rundir *run, struct slurm_run **out, struct err *err)
{
    *out = NULL;
    if (site < 0)
        return 0;
    bool joins = spec->sites[site].via == VIA_JOIN;
    struct slurm_run *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    r->spec = spec;
    r->settings = &spec->sites[site].slurm;
    r->verb = joins ? "join" : "run";
    r->env = slurm_environment_read();
    snprintf(r->path, sizeof r->path, "%s/state/slurm", run->path);
    snprintf(r->run_dir, sizeof r->run_dir, "%s", run->path);
    snprintf(r->job, sizeof r->job, "%llu", (unsigned long long)r->env.job);
    snprintf(r->who, sizeof r->who, "slurm %.80s/0", spec->sites[site].name);
    snprintf(r->go_on, sizeof r->go_on, joins ? "sbatch, and the script of this job" : "viaduct submit SPEC --dir %s", r->run_dir);
    int rc = begin(r, err);
    if (rc < 0) {
        free(r);
        return rc;
    }
    if (!joins && slurm_node_count(spec) > 1)
        ask_address(r);
    *out = r;
    return 0;
}

void slurm_run_free(struct slurm_run *r) { free(r); }
const char *const *slurm_run_ended(const struct slurm_run *r) { return r->ended; }
const char *slurm_run_srun(const struct slurm_run *r) { return r->srun; }
const char *slurm_run_address(const struct slurm_run *r) { return r->address[0] ? r->address : NULL; }

void slurm_run_step(const struct slurm_run *r, unsigned site, unsigned node, struct slurm_step *out)
{
    slurm_step_of(r->spec, site, node, r->env.heterogeneous, r->program, r->run_dir, out);
}

/* ---- signals ---- */
const char *slurm_run_signal(struct slurm_run *r, int signo)
{
    if (signo == SIGUSR1) {
        r->warned = true;
        return "Slurm's time limit is near";
    }
    r->terminated = true;
    return "Slurm takes the nodes back";
}

uint64_t slurm_run_drain_in_ms(struct slurm_run *r)
{
    struct slurm_job job;
    ask_job(r, &job);
    if (job.end_s)
        r->planned_end_s = job.end_s;
    if (!r->planned_end_s)
        return UINT64_MAX;
    int64_t left = r->planned_end_s - (int64_t)r->settings->drain_s - now_s();
    return left > 0 ? (uint64_t)left * 1000 : 0;
}

bool slurm_run_signalled(const struct slurm_run *r) { return r && (r->warned || r->terminated); }

/* ---- end ---- */
/* What another start would not do better: usage, nothing there, not allowed, in use. */
static bool is_final(int code) { return code == 2 || code == 4 || code == 5 || code == 6; }

static enum slurm_cause why(const struct slurm_run *r, const char *status, int code)
{
    struct slurm_job job;
    if (strcmp(status, "completed") == 0)
        return CAUSE_NONE;
    if (r->warned)
        return CAUSE_TIME_LIMIT;
    if (!r->terminated && code != 0)
        return is_final(code) ? CAUSE_NONE : CAUSE_JOB_FAILURE;
    ask_job(r, &job);                     /* of a preemption only the steps are told, and the agents asked to stop; else a person did */
    return slurm_why_term(&job, r->warned, r->planned_end_s, now_s());
}

/* Where jobs may not be requeued, the same script is submitted again, to begin when this job is over. */
static int resubmit(const struct slurm_run *r, char *id, size_t size, struct err *err)
{
    char script[600], after[60], output[1200], folder[600];
    snprintf(script, sizeof script, "%s/state/slurm-script", r->run_dir);
    snprintf(folder, sizeof folder, "%s/slurm", r->run_dir);
    TRY(fs_mkdirs(&fs_real, folder, err));
    TRY(slurm_output_option(r->run_dir, output, sizeof output, err));
    snprintf(after, sizeof after, "--dependency=afterany:%s", r->job);
    const char *const fetch[] = {"scontrol", "write", "batch_script", r->job, script, NULL};
    const char *const submit[] = {"sbatch", "--parsable", after, output, script, NULL};
    unlink(script);
    TRY(slurm_command(fetch, COMMAND_MS, id, size, err));
    TRY(slurm_command(submit, COMMAND_MS, id, size, err));
    id[strcspn(id, ";\n")] = '\0';
    return 0;
}

static bool starts_again_already(const struct slurm_run *r)
{
    struct slurm_job job;
    ask_job(r, &job);
    return job.known && (job.state == SLURM_PENDING || job.restarts > r->env.restart);
}

/* 0: requeued; 1: another job was submitted. */
static int requeue_or_resubmit(const struct slurm_run *r, struct err *err)
{
    char answer[400];
    const char *const argv[] = {"scontrol", "requeue", r->job, NULL};
    if (slurm_command(argv, COMMAND_MS, answer, sizeof answer, err) == 0) {
        sleep(REQUEUED_S);                /* an end of our own meanwhile would be another end of the job */
        return 0;
    }
    if (starts_again_already(r))          /* Slurm was quicker */
        return 0;
    fprintf(stderr, "viaduct %s: %s; submitting it again\n", r->verb, err->text);
    TRY(resubmit(r, answer, sizeof answer, err));
    fprintf(stderr, "viaduct %s: submitted as Slurm job %s\n", r->verb, answer);
    return 1;
}

/* "Unable to contact slurm controller", or no answer at all. */
static bool is_down(const struct err *err) { return err->code == ERR_TEMPORARY || strstr(err->text, "contact") != NULL; }

static int start_again(struct slurm_run *r, enum slurm_cause cause, struct err *err)
{
    fprintf(stderr, "viaduct %s: %s: Slurm job %s starts again (%u of %u)\n", r->verb, slurm_cause_text(cause), r->job, r->book.used[cause] + 1,
            r->settings->retries[cause]);
    TRY(append_end(r, "end", cause, now_s(), err));   /* first: Slurm ends this process as soon as it is asked */
    int rc = requeue_or_resubmit(r, err);
    for (unsigned i = 1; i < TRIES && rc < 0 && is_down(err); i++) {
        sleep(TRY_AGAIN_S);
        rc = requeue_or_resubmit(r, err);
    }
    return rc == 1 ? append(r, "resubmitted\n", err) : rc;
}

int slurm_run_end(struct slurm_run *r, const char *status, int code)
{
    struct err err = ERR_INIT;
    enum slurm_cause cause = why(r, status, code);
    bool again = slurm_may_retry(&r->book, cause, r->settings->retries);
    int rc = again ? start_again(r, cause, &err) : append_end(r, "end", cause, now_s(), &err);
    if (rc < 0) {
        fprintf(stderr, "viaduct %s: the job is not started again: %s. Go on with: %s\n", r->verb, err.text, r->go_on);
        return code ? code : err_exit_code(rc);
    }
    if (!again && cause < (enum slurm_cause)RETRIES)
        fprintf(stderr, "viaduct %s: the job is not started again: slurm.retries.%s is %u. Go on with: %s\n", r->verb, slurm_cause_word(cause),
                r->settings->retries[cause], r->go_on);
    return again && cause != CAUSE_JOB_FAILURE ? 0 : code;
}
