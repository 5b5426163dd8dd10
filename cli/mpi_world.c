/* The supervisor is a `viaduct run` of its own, in its own session and without mpirun's variables, so that it outlives the MPI job. Its agent
 * of the gang's site launches no ranks; it writes "INCARNATION WORLD" to RUN/state/gang-SITE, where WORLD names this MPI job, and each rank waits
 * for that line: a file of an earlier start never starts a worker. */
#include "cli/mpi_world.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/join.h"
#include "cli/mpi_rank.h"
#include "cli/rundirs.h"

#define GANG_WAIT_MS 90000            /* a resume may wait for the processes of the start before it */
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

/* The world's size counts instead of the spec's `ranks`. */
static int set_up_visit(struct world *w, struct err *err)
{
    const struct job_spec *spec = &w->job.spec;
    uint32_t ranks = w->mpi.ranks;
    for (unsigned i = 0; i < spec->site_count; i++)
        ranks += i == w->site_index ? 0 : spec->sites[i].ranks;
    if (!w->run->site)
        return err_set(err, ERR_USAGE, "which site of the run this world is, --site NAME says");
    if (ranks > spec->lanes)
        return err_set(err, ERR_USAGE, "%u ranks over all sites (%u in this MPI world) need at least as many lanes, and train.lanes is %u; start fewer ranks", ranks,
                       w->mpi.ranks, spec->lanes);
    join_default_dir(w->site, w->run->dir, w->dir, sizeof w->dir);
    return 0;
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
    if (w->run->site)
        TRY(join_find_site(spec, w->run->site, &w->site_index, err));
    w->site = spec->sites[w->site_index].name;
    if (w->run->visiting)
        return set_up_visit(w, err);
    if (spec->sites[w->site_index].via == VIA_JOIN)
        return err_set(err, ERR_USAGE, "site '%s' is `via: join`: it comes to a run that is there already, with --coordinator HOST:PORT --token FILE; "
                       "name another site with --site", w->site);
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
    const char *args[72], *env[ENV_MAX + 4];
    char sites[SITES_MAX * 256 + 16], external[160], world_name[200], world_process[80], terminal_fd[48], *emptied[ENV_MAX];
    unsigned n = 0, e = 0;
    if (w->run->visiting)
        snprintf(sites, sizeof sites, "--ranks=%u", w->mpi.ranks);
    else
        print_sites(w, sites, sizeof sites);
    snprintf(external, sizeof external, "--external-gang=%s", w->site);
    snprintf(world_name, sizeof world_name, "VIADUCT_WORLD=%s", w->name);
    snprintf(world_process, sizeof world_process, "VIADUCT_WORLD_PROCESS=%d %llu", (int)getpid(), (unsigned long long)process_start_ticks(getpid()));
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
    env[e++] = world_process;
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
static int wait_for_gang(const struct world *w, struct mpi_rank *r, int *code, struct err *err)
{
    int status, signo = -1;
    *code = -1;
    for (uint64_t until = clock_now_ms() + GANG_WAIT_MS; clock_now_ms() < until && signo != SIGTERM; signo = mpi_rank_wait(20)) {
        if (invited(w, &r->incarnation) || mpi_rank_is_over(r, code))
            return 0;
        if (w->supervisor > 0 && waitpid(w->supervisor, &status, WNOHANG) == w->supervisor) {
            *code = exit_code_of(status);   /* it said why */
            mpi_rank_say_over(r, *code);
            return 0;
        }
    }
    if (w->supervisor > 0)
        kill(w->supervisor, SIGINT);
    if (signo == SIGTERM)
        return err_set(err, ERR_TEMPORARY, "mpirun was told to end, or a rank died, before site '%s' was ready", w->site);
    return err_set(err, ERR_TEMPORARY, "site '%s' did not get ready within %d s; see %s/log", w->site, GANG_WAIT_MS / 1000, w->dir);
}

static int take_part(struct world *w, int *code, struct err *err)
{
    bool completed = false;
    TRY(set_up(w, err));
    struct mpi_rank r = {.dir = w->dir, .site = w->site, .world = w->name, .rank = w->mpi.rank, .visiting = w->run->visiting};
    if (w->run->resume)
        TRY(rundirs_completed(w->dir, &w->job, &completed, err));
    *code = 0;
    if (completed && w->mpi.rank != 0)
        return 0;
    if (w->mpi.rank == 0) {
        mpi_rank_clear(&r);
        TRY(start_supervisor(w, err));
    }
    TRY(wait_for_gang(w, &r, code, err));
    r.supervisor = w->supervisor;
    if (*code < 0)
        *code = mpi_rank_run(&r);
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
    mpi_rank_prepare();
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
