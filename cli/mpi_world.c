/* The supervisor is a `viaduct run` of its own, in its own session and without mpirun's variables, so that it outlives the MPI job. Its agent
 * of the gang's site launches no ranks; it writes "INCARNATION WORLD" to RUN/state/gang-SITE, where WORLD names this MPI job, and each rank waits
 * for that line: a file of an earlier start never starts a worker. */
#include "cli/mpi_world.h"

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

#define GANG_WAIT_MS 60000
#define REPORT_WAIT_MS 600000

extern char **environ;

static const char *world_name(void)
{
    const char *n = getenv("PMIX_NAMESPACE");
    return n && *n ? n : getenv("OMPI_MCA_ess_base_jobid");
}

static int site_of(const struct job_spec *spec, const char *name, unsigned *index, struct err *err)
{
    for (*index = 0; *index < spec->site_count; ++*index)
        if (!name || strcmp(spec->sites[*index].name, name) == 0)
            return 0;
    return err_set(err, ERR_USAGE, "the spec has no site named '%s'", name);
}

static int start_supervisor(int argc, char **argv, const char *ranks, const char *external, const char *world, pid_t *pid, struct err *err)
{
    const char *args[72], *env[260];
    static char storage[256][80];
    unsigned n = 0, e = 0;
    for (int i = 0; i < argc && n < 66; i++)
        args[n++] = argv[i];
    args[n++] = ranks;
    args[n++] = external;
    args[n] = NULL;
    for (char **v = environ; *v && e < 255; v++)   /* "NAME=": emptied, so that the supervisor does not take itself for a rank */
        if (strncmp(*v, "OMPI_COMM_WORLD_", 16) == 0) {
            snprintf(storage[e], sizeof storage[e], "%.*s=", (int)strcspn(*v, "="), *v);
            env[e] = storage[e];
            e++;
        }
    static char world_env[200];
    snprintf(world_env, sizeof world_env, "VIADUCT_WORLD=%s", world);
    env[e++] = world_env;
    env[e] = NULL;
    struct launch what = {.argv = args, .env = env, .keep_fd = -1, .own_session = true};
    return launch_local(&what, pid, err);
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int wait_for_gang(const char *dir, const char *site, const char *world, pid_t supervisor, unsigned *incarnation, struct err *err)
{
    char path[700], name[160];
    snprintf(path, sizeof path, "%s/state/gang-%s", dir, site);
    for (uint64_t until = clock_now_ms() + GANG_WAIT_MS; clock_now_ms() < until; pause_ms(20)) {
        void *bytes = NULL;
        size_t size = 0;
        struct err none = ERR_INIT;
        if (fs_read_file(&fs_real, path, 1024, &bytes, &size, &none) == 0) {
            bool mine = sscanf(bytes, "%u %159s", incarnation, name) == 2 && strcmp(name, world) == 0;
            free(bytes);
            if (mine)
                return 0;
        }
        int status;
        if (supervisor > 0 && waitpid(supervisor, &status, WNOHANG) == supervisor)
            return err_set(err, ERR_FAILED, "the supervisor of this run ended with code %d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    return err_set(err, ERR_TEMPORARY, "%s did not get ready within %d s; see %s/log", site, GANG_WAIT_MS / 1000, dir);
}

static int stay_for_report(const char *dir, pid_t supervisor)
{
    char status[32] = "";
    if (supervisor > 0) {
        int wait_status;
        waitpid(supervisor, &wait_status, 0);   /* prints summary and report line itself */
        return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;
    }
    for (uint64_t until = clock_now_ms() + REPORT_WAIT_MS; clock_now_ms() < until; pause_ms(100)) {
        rundirs_status(dir, status, sizeof status);
        if (*status && strcmp(status, "running") != 0)
            break;
    }
    return strcmp(status, "completed") == 0 || strcmp(status, "stopped") == 0 ? 0 : 3;
}

int mpi_world_run(struct mpi_environment world, const struct args *a, int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    const char *token = world_name();
    unsigned site = 0, incarnation = 0;
    int rc = cli_load_spec("run", job, a->positional[0], a, world.rank == 0);
    if (rc < 0) {
        job_fini(job);
        free(job);
        return err_exit_code(rc);
    }
    if (!token)
        rc = err_set(&err, ERR_USAGE, "mpirun gave this process no name of its world (PMIX_NAMESPACE)");
    if (rc == 0)
        rc = site_of(&job->spec, a->value[2], &site, &err);
    char dir[600], ranks[64], external[160], rank[16], number[16];
    const char *name = rc == 0 ? job->spec.sites[site].name : "";
    snprintf(dir, sizeof dir, "%s%s", a->value[0] ? "" : "runs/", a->value[0] ? a->value[0] : job->spec.name);
    snprintf(ranks, sizeof ranks, "sites.%u.ranks=%u", site, world.ranks);
    snprintf(external, sizeof external, "--external-gang=%s", name);
    pid_t supervisor = 0;
    if (rc == 0 && world.rank == 0)
        rc = start_supervisor(argc, argv, ranks, external, token, &supervisor, &err);
    if (rc == 0)
        rc = wait_for_gang(dir, name, token, supervisor, &incarnation, &err);
    int code;
    if (rc < 0) {
        code = cli_fail("run", &err);
    } else {
        snprintf(rank, sizeof rank, "%u", world.rank);
        snprintf(number, sizeof number, "%u", incarnation);
        char *worker[] = {"worker", "--run", dir, "--site", (char *)name, "--rank", rank, "--incarnation", number, NULL};
        setenv("VIADUCT_COLLECTIVES", "mpi", 1);
        code = worker_main(9, worker);
        if (code == 0)
            code = stay_for_report(dir, supervisor);
        else if (code == 75 && world.rank == 0)
            fprintf(stderr, "viaduct run: the gang ended early; go on with: mpirun -n %u viaduct run %s --resume --dir %s\n", world.ranks,
                    a->positional[0], dir);
    }
    job_fini(job);
    free(job);
    return code;
}
