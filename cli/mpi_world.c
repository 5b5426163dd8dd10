/* The supervisor is a `viaduct run` of its own, in its own session and without mpirun's variables, so that it outlives the MPI job. Its agent
 * of the gang's site launches no ranks; it writes "INCARNATION WORLD" to RUN/state/gang-SITE, where WORLD names this MPI job, and each rank waits
 * for that line: a file of an earlier start never starts a worker. */
#include "cli/mpi_world.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/live.h"
#include "cli/rundirs.h"
#include "worker/worker.h"

#define GANG_WAIT_MS 90000            /* a resume may wait for the processes of the start before it */
#define REPORT_WAIT_MS 600000
#define ENV_MAX 256
#define TERMINAL "VIADUCT_TERMINAL_FD"

extern char **environ;

struct world {
    struct mpi_environment mpi;
    const struct mpi_run *run;
    struct job job;
    const char *name;                 /* of this MPI job: no two are the same */
    const char *site;
    unsigned site_index;
    char dir[600];
    pid_t supervisor;                 /* rank 0 only */
};

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int set_up(struct world *w, struct err *err)
{
    const struct job_spec *spec = &w->job.spec;
    const char *name = getenv("PMIX_NAMESPACE");
    w->name = name && *name ? name : getenv("OMPI_MCA_ess_base_jobid");
    if (!w->name)
        return err_set(err, ERR_USAGE, "mpirun gave this process no name of its world (PMIX_NAMESPACE)");
    if (w->run->own_worker)
        return err_set(err, ERR_USAGE, "--worker under mpirun is not done yet: start the run without mpirun, or train with the built-in worker");
    while (w->site_index < spec->site_count && w->run->site && strcmp(spec->sites[w->site_index].name, w->run->site) != 0)
        w->site_index++;
    if (w->site_index == spec->site_count)
        return err_set(err, ERR_USAGE, "the spec has no site named '%s'", w->run->site);
    w->site = spec->sites[w->site_index].name;
    snprintf(w->dir, sizeof w->dir, "%s%s", w->run->dir ? "" : "runs/", w->run->dir ? w->run->dir : spec->name);
    return 0;
}

/* The spec's sites with this world's size as ranks of one: whole, because a spec need not name any. */
static void print_sites(const struct world *w, char *out, size_t size)
{
    const struct job_spec *spec = &w->job.spec;
    size_t n = (size_t)snprintf(out, size, "sites=[");
    for (unsigned i = 0; i < spec->site_count && n < size; i++) {
        const struct job_site *s = &spec->sites[i];
        n += (size_t)snprintf(out + n, size - n, "%s{name: \"%s\", via: %s, ranks: %u, threads: %u, ps_shards: %u%s%s%s%s%s%s}", i ? ", " : "", s->name,
                              job_via_word(i == w->site_index && s->via == VIA_SLURM ? VIA_MPIRUN : s->via), i == w->site_index ? w->mpi.ranks : s->ranks, s->threads, s->ps_shards,
                              s->door ? ", door: \"" : "", s->door ? s->door : "", s->door ? "\"" : "",
                              s->door_address ? ", door_address: \"" : "", s->door_address ? s->door_address : "", s->door_address ? "\"" : "");
    }
    CHECK(n + 2 < size);
    snprintf(out + n, size - n, "]");
}

/* What a rank writes goes through mpirun, and ends with it. The supervisor lives longer: it gets mpirun's own standard error, to say how it ended. */
static int open_terminal(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/2", (int)getppid());
    return open(path, O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC);
}

void mpi_world_take_terminal(void)
{
    const char *text = getenv(TERMINAL);
    struct pollfd own = {.fd = STDERR_FILENO, .events = POLLOUT};
    int fd = text && *text ? (int)strtol(text, NULL, 10) : -1;
    if (fd > STDERR_FILENO && poll(&own, 1, 0) == 1 && own.revents & (POLLERR | POLLHUP | POLLNVAL))
        dup2(fd, STDERR_FILENO);
}

void mpi_world_keep_terminal(void)
{
    const char *text = getenv(TERMINAL);
    int fd = text && *text ? (int)strtol(text, NULL, 10) : -1;
    if (fd > STDERR_FILENO && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        unsetenv(TERMINAL);
}

static int start_supervisor(struct world *w, struct err *err)
{
    const char *args[72], *env[ENV_MAX + 3];
    char sites[SITES_MAX * 256 + 16], external[160], world_name[200], terminal_fd[48], *emptied[ENV_MAX];
    unsigned n = 0, e = 0;
    print_sites(w, sites, sizeof sites);
    snprintf(external, sizeof external, "--external-gang=%s", w->site);
    snprintf(world_name, sizeof world_name, "VIADUCT_WORLD=%s", w->name);
    for (int i = 0; i < w->run->argc && n < ARRAY_LEN(args) - 3; i++)
        args[n++] = w->run->argv[i];
    args[n++] = sites;
    args[n++] = external;
    args[n] = NULL;
    for (char **v = environ; *v && e < ENV_MAX; v++)   /* "NAME=": emptied, so that the supervisor does not take itself for a rank */
        if (strncmp(*v, "OMPI_COMM_WORLD_", 16) == 0) {
            emptied[e] = strndup(*v, strcspn(*v, "=") + 1);
            CHECK(emptied[e] != NULL);
            env[e] = emptied[e];
            e++;
        }
    unsigned count = e;
    int terminal = open_terminal();
    snprintf(terminal_fd, sizeof terminal_fd, TERMINAL "=%.0d", terminal > STDERR_FILENO ? terminal : 0);
    env[e++] = world_name;
    env[e++] = terminal_fd;
    env[e] = NULL;
    struct launch what = {.argv = args, .env = env, .keep_fd = terminal, .own_session = true};
    int rc = launch_local(&what, &w->supervisor, err);
    if (terminal >= 0)
        close(terminal);
    for (unsigned i = 0; i < count; i++)
        free(emptied[i]);
    return rc;
}

static bool invited(const struct world *w, unsigned *incarnation)
{
    char path[700], name[160] = "";
    void *bytes = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    snprintf(path, sizeof path, "%s/state/gang-%s", w->dir, w->site);
    if (fs_read_file(&fs_real, path, 1024, &bytes, &size, &none) < 0)
        return false;
    bool mine = sscanf(bytes, "%u %159s", incarnation, name) == 2 && strcmp(name, w->name) == 0;
    free(bytes);
    return mine;
}

static int exit_code_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* *code: of a run that ended before the gang could begin, else -1. */
static int wait_for_gang(struct world *w, unsigned *incarnation, int *code, struct err *err)
{
    *code = -1;
    for (uint64_t until = clock_now_ms() + GANG_WAIT_MS; clock_now_ms() < until; pause_ms(20)) {
        int status;
        if (invited(w, incarnation))
            return 0;
        if (w->supervisor > 0 && waitpid(w->supervisor, &status, WNOHANG) == w->supervisor) {
            *code = exit_code_of(status);   /* it said why */
            return 0;
        }
    }
    return err_set(err, ERR_TEMPORARY, "site '%s' did not get ready within %d s; see %s/log", w->site, GANG_WAIT_MS / 1000, w->dir);
}

static int stay_for_report(const struct world *w)
{
    char status[32] = "";
    int wait_status;
    if (w->supervisor > 0)   /* it prints summary and report line itself */
        return waitpid(w->supervisor, &wait_status, 0) == w->supervisor ? exit_code_of(wait_status) : 1;
    for (uint64_t until = clock_now_ms() + REPORT_WAIT_MS; clock_now_ms() < until; pause_ms(100)) {
        rundirs_status(w->dir, status, sizeof status);
        if (*status && strcmp(status, "running") != 0)
            break;
    }
    return strcmp(status, "completed") == 0 || strcmp(status, "stopped") == 0 ? 0 : 3;
}

/* mpirun ends the ranks that are left by SIGTERM, and a second later by SIGKILL: the first of them says what goes on with the run. */
static void *await_term(void *arg)
{
    const struct world *w = arg;
    char path[700], command[RESUME_COMMAND_BYTES];
    sigset_t term;
    int signo;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    while (sigwait(&term, &signo) != 0)
        ;
    snprintf(path, sizeof path, "%s/state/gang-told", w->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    rundirs_resume_command(w->dir, command, sizeof command);
    if (fd >= 0)
        fprintf(stderr, "viaduct run: mpirun ends this world, as it does when a rank dies; go on with: %s\n", command);
    signal(SIGTERM, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &term, NULL);
    raise(SIGTERM);
    return NULL;
}

static void watch_term(struct world *w)
{
    pthread_t thread;
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);   /* before the library's threads are made: none of them takes it */
    if (pthread_create(&thread, NULL, await_term, w) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &term, NULL);
}

static int be_a_rank(struct world *w, unsigned incarnation)
{
    watch_term(w);
    char rank[16], number[16];
    snprintf(rank, sizeof rank, "%u", w->mpi.rank);
    snprintf(number, sizeof number, "%u", incarnation);
    char *worker[] = {"worker", "--run", w->dir, "--site", (char *)w->site, "--rank", rank, "--incarnation", number, NULL};
    setenv("VIADUCT_COLLECTIVES", "mpi", 1);
    int code = worker_main(9, worker);
    if (code == 0)
        return stay_for_report(w);
    if (code == err_exit_code(ERR_TEMPORARY)) {
        char command[RESUME_COMMAND_BYTES];
        rundirs_resume_command(w->dir, command, sizeof command);
        fprintf(stderr, "viaduct run: the gang ended early; go on with: %s\n", command);
    }
    return code;
}

static int take_part(struct world *w, int *code, struct err *err)
{
    bool completed = false;
    unsigned incarnation = 0;
    TRY(set_up(w, err));
    if (w->run->resume)
        TRY(rundirs_completed(w->dir, &w->job, &completed, err));
    *code = 0;
    if (completed && w->mpi.rank != 0)
        return 0;
    if (w->mpi.rank == 0)
        TRY(start_supervisor(w, err));
    TRY(wait_for_gang(w, &incarnation, code, err));
    if (*code < 0)
        *code = be_a_rank(w, incarnation);
    return 0;
}

int mpi_world_run(struct mpi_environment mpi, const struct mpi_run *run)
{
    struct err err = ERR_INIT;
    struct world *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->mpi = mpi;
    w->run = run;
    int code = 0, rc;
    if (mpi.rank == 0)   /* problems are told once */
        rc = cli_load_spec("run", &w->job, run->spec, run->args, true);
    else
        rc = job_load(&w->job, run->spec, run->args->override, run->args->override_count, false, &err);
    if (rc == 0 && (rc = take_part(w, &code, &err)) < 0 && (mpi.rank == 0 || rc == ERR_TEMPORARY))
        cli_fail("run", &err);
    job_fini(&w->job);
    free(w);
    return rc < 0 ? err_exit_code(rc) : code;
}
