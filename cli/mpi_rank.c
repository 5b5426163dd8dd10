#include "cli/mpi_rank.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/rundirs.h"
#include "slurm/slurm.h"

#define TURN_MS 50
#define VERDICT_MS 15000              /* a rank that gave up is rarely the cause: so long mpirun or the supervisor may say more */
#define FINISH_MS 10000               /* the run is over: workers get this long to leave MPI together */

struct life {
    const struct mpi_rank *r;
    pid_t worker;                     /* 0: ended */
    int worker_code, supervisor_code; /* -1: runs */
    bool leaving;
    uint64_t until_ms;                /* 0: no end is due */
};

/* ---- what ranks of a world tell each other and their agent: files that name the world ---- */
static void path_of(const struct mpi_rank *r, const char *name, char out[700])
{
    snprintf(out, 700, "%s/state/%s", r->dir, name);
}

void mpi_rank_clear(const struct mpi_rank *r)
{
    static const char *const names[] = {"gang-told", "gang-end"};
    char path[700];
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        path_of(r, names[i], path);
        unlink(path);
    }
}

bool mpi_rank_is_over(const struct mpi_rank *r, int *code)
{
    char path[700], world[160] = "";
    int told;
    path_of(r, "gang-end", path);
    FILE *f = fopen(path, "re");
    bool over = f && fscanf(f, "%159s %d", world, &told) == 2 && strcmp(world, r->world) == 0;
    if (f)
        fclose(f);
    if (over)                             /* else it is what an earlier world left */
        *code = told;
    return over;
}

void mpi_rank_say_over(const struct mpi_rank *r, int code)
{
    char path[700], line[200];
    struct err err = ERR_INIT;
    path_of(r, "gang-end", path);
    int n = snprintf(line, sizeof line, "%.159s %d\n", r->world, code);
    if (fs_publish_file(&fs_real, path, line, (size_t)n, &err) < 0)
        fprintf(stderr, "viaduct run: the other ranks are not told that the run is over: %s\n", err.text);
}

/* Why this world ends; the first to say it is right, and the agent reports it. false: another has said it. */
static bool tell(const struct mpi_rank *r, int code, int signo)
{
    char path[700];
    path_of(r, "gang-told", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
        dprintf(fd, "%s %u %d %d\n", r->world, r->rank, code, signo);
        close(fd);
    }
    return fd >= 0;
}

/* Another rank has told: mpirun would say so a second later. */
static bool was_told(const struct mpi_rank *r, int *code)
{
    char path[700], world[160] = "";
    unsigned rank;
    int signo;
    path_of(r, "gang-told", path);
    FILE *f = fopen(path, "re");
    bool told = f && fscanf(f, "%159s %u %d %d", world, &rank, code, &signo) == 4 && strcmp(world, r->world) == 0;
    if (f)
        fclose(f);
    if (told && signo)
        *code = err_exit_code(ERR_TEMPORARY);
    return told;
}

static void print_line(const struct mpi_rank *r, const char *why)
{
    char command[RESUME_COMMAND_BYTES];
    rundirs_resume_command(r->dir, command, sizeof command);
    fprintf(stderr, "viaduct run: mpirun ends this world, %s; %s with: %s\n", why, r->visiting ? "come again" : "go on", command);
}

/* ---- this rank's worker ---- */
static int launch_worker(struct life *l, struct err *err)
{
    const struct mpi_rank *r = l->r;
    char rank[16], incarnation[16];
    snprintf(rank, sizeof rank, "%u", r->rank);
    snprintf(incarnation, sizeof incarnation, "%u", r->incarnation);
    const char *const argv[] = {"worker", "--run", r->dir, "--site", r->site, "--rank", rank, "--incarnation", incarnation, NULL};
    const char *const env[] = {"VIADUCT_COLLECTIVES=mpi", r->visiting ? "VIADUCT_VISITING=1" : "VIADUCT_VISITING=", NULL};
    /* Out of mpirun's process group: what it signals is for us to judge. */
    struct launch what = {.argv = argv, .env = env, .keep_fd = -1, .own_session = true, .dies_with_us = true};
    return launch_local(&what, &l->worker, err);
}

static bool gave_up(int code) { return code == err_exit_code(ERR_TEMPORARY); }

static int fell(const struct mpi_rank *r, int code, int signo)
{
    char why[120];
    if (signo)
        snprintf(why, sizeof why, "because rank %u was killed by signal %d", r->rank, signo);
    else
        snprintf(why, sizeof why, "because rank %u ended early", r->rank);
    if (tell(r, code, signo) && (signo || gave_up(code)))   /* other codes: the worker has said why, and nothing is to be gone on with */
        print_line(r, why);
    return signo ? err_exit_code(ERR_TEMPORARY) : code;
}

static bool worker_ended(struct life *l, int status, int *code)
{
    l->worker = 0;
    l->worker_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (l->leaving || l->supervisor_code >= 0 || l->worker_code == 0)
        return false;
    l->until_ms = gave_up(l->worker_code) ? clock_now_ms() + VERDICT_MS : 0;
    if (!l->until_ms)
        *code = fell(l->r, WIFEXITED(status) ? l->worker_code : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    return !l->until_ms;
}

/* ---- ends ---- */
/* mpirun ends the ranks that are left by SIGTERM, and a second later by SIGKILL: after a death, or because somebody told it to end. */
static bool terminated(struct life *l, int *code)
{
    const struct mpi_rank *r = l->r;
    *code = err_exit_code(ERR_TEMPORARY);
    if (l->leaving)
        return false;
    bool first = r->rank == 0 && l->supervisor_code < 0 && tell(r, -1, SIGTERM);   /* else a death, which its rank has told */
    l->leaving = first && r->visiting;
    if (l->leaving)
        kill(r->supervisor, SIGINT);      /* it says the line once the site has left */
    else if (first)
        print_line(r, "as it does when a rank dies");
    return !l->leaving;
}

static void supervisor_ended(struct life *l, int status)
{
    l->supervisor_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    bool killed = WIFSIGNALED(status);    /* its children finish the round, save and end */
    if (l->worker && (killed || l->supervisor_code == 0))
        l->until_ms = clock_now_ms() + (killed ? VERDICT_MS : FINISH_MS);
    else
        l->until_ms = 1;
    if (killed)
        l->supervisor_code = err_exit_code(ERR_TEMPORARY);
}

/* Rank 0 ends as the supervisor did; the others follow it, or mpirun ends them. */
static bool is_over(struct life *l, int *code)
{
    const struct mpi_rank *r = l->r;
    bool late = l->until_ms && clock_now_ms() >= l->until_ms;
    if (!l->leaving && was_told(r, code))
        return true;
    if (r->supervisor && l->supervisor_code >= 0 && (late || !l->worker)) {
        *code = l->supervisor_code;
        mpi_rank_say_over(r, *code);
        return true;
    }
    if (!r->supervisor && !l->worker && mpi_rank_is_over(r, code) && *code == 0)
        return true;
    if (late)
        *code = fell(r, l->worker_code, 0);
    return late;
}

void mpi_rank_prepare(void)
{
    static const int ours[] = {SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_LEN(ours); i++)
        sigaddset(&set, ours[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

int mpi_rank_wait(long ms)
{
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    return sigtimedwait(&set, NULL, &(struct timespec){ms / 1000, ms % 1000 * 1000000});
}

int mpi_rank_run(const struct mpi_rank *r)
{
    struct life l = {.r = r, .worker_code = -1, .supervisor_code = -1};
    struct err err = ERR_INIT;
    int code, status;
    if (launch_worker(&l, &err) < 0) {
        fprintf(stderr, "viaduct run: %s\n", err.text);
        return err_exit_code(err.code);
    }
    for (;;) {
        int signo = mpi_rank_wait(TURN_MS);
        if (signo == SIGTERM && terminated(&l, &code))
            return code;
        if ((signo == SIGUSR1 || signo == SIGUSR2) && r->supervisor)   /* mpirun forwards them: an end in good order, for which there is time */
            kill(r->supervisor, SIGINT);
        if (l.worker && waitpid(l.worker, &status, WNOHANG) == l.worker && worker_ended(&l, status, &code))
            return code;
        if (r->supervisor && l.supervisor_code < 0 && waitpid(r->supervisor, &status, WNOHANG) == r->supervisor)
            supervisor_ended(&l, status);
        if (is_over(&l, &code))
            return code;
    }
}
