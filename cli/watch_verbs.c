/* Verbs that watch and steer a run: status, stop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/live.h"
#include "cli/rundirs.h"

#define ANSWER_MS 5000
#define AGAIN_MS 100000000l          /* between two tries, in nanoseconds */
#define STOP_WAIT_MS 30000
#define BEAT_MS 3000

static int open_run(const char *verb, const struct args *a, struct rundir *run)
{
    struct err err = ERR_INIT;
    int rc = a->positional_count == 1 ? rundir_look(run, a->positional[0], &err)
                                      : err_set(&err, ERR_USAGE, "one run directory is needed: viaduct %s RUN", verb);
    if (rc < 0)
        cli_fail(verb, &err);
    return rc;
}

/* Another host holds the run: its sockets are not ours. */
static bool held_elsewhere(const char *dir, struct holder *owner)
{
    struct holder me = holder_self();
    return lease_owner(dir, owner) && strcmp(owner->host, me.host) != 0;
}

/* A coordinator that is being started again answers soon; of a run that is over none ever will. *json: NULL to stop it. */
static int reach(const struct rundir *run, const char *dir, char **json, struct err *err)
{
    int rc;
    struct holder owner;
    bool here = !held_elsewhere(dir, &owner);
    uint64_t until = clock_now_ms() + ANSWER_MS;
    while ((rc = json ? live_ask(run, ANSWER_MS, json, err) : live_stop(run, ANSWER_MS, err)) < 0 && here && rundirs_lives(dir) && clock_now_ms() < until)
        nanosleep(&(struct timespec){0, AGAIN_MS}, NULL);
    return rc;
}

/* A run on another host, whose coordinator is out of reach: who runs it; false: nobody, as far as can be seen from here. */
static bool runs_elsewhere(const char *dir, struct holder *owner)
{
    char status[32];
    struct holder me = holder_self();
    rundirs_status(dir, status, sizeof status);
    return strcmp(status, "running") == 0 && held_elsewhere(dir, owner) && lease_owner_lives(dir, &me, BEAT_MS);
}

/* How a run ended: its report's status; "interrupted" when that still says running. */
static void ended(const char *dir, char status[32])
{
    rundirs_status(dir, status, 32);
    if (!*status || strcmp(status, "running") == 0)
        snprintf(status, 32, "interrupted");
}

int cli_status_of_ended(const char *dir, bool json, struct err *err)
{
    char status[32], who[200], resume[RESUME_COMMAND_BYTES];
    struct holder owner;
    bool elsewhere = runs_elsewhere(dir, &owner);
    if (elsewhere && json)
        return live_summary_json(dir, "running", NULL, stdout, err);
    if (elsewhere) {
        holder_text(&owner, who, sizeof who);
        printf("running: %s; %s/metrics.jsonl has its newest step\n", who, dir);
        return 0;
    }
    ended(dir, status);
    bool completed = strcmp(status, "completed") == 0;
    rundirs_resume_command(dir, resume, sizeof resume);
    if (json)
        return live_summary_json(dir, status, completed || rundirs_diverged(dir) ? NULL : resume, stdout, err);
    live_summary(dir, stdout);
    if (!completed)
        rundirs_print_resume(dir, stdout);
    return 0;
}

int verb_status(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("status", &err);
    int rc = open_run("status", &a, &run);
    if (rc < 0)
        return err_exit_code(rc);
    const char *dir = a.positional[0];
    char *json = NULL, line[512];
    struct holder owner;
    rc = reach(&run, dir, &json, &err);
    if (rc == 0) {
        live_line(json, 0, line, sizeof line);
        printf("%s\n", args_value(&a, "--json") ? json : line);
        if (!args_value(&a, "--json") && live_metrics(json, line, sizeof line))
            printf("metrics at %s\n", line);
        free(json);
    } else if (!held_elsewhere(dir, &owner) && rundirs_lives(dir)) {
        err_set(&err, ERR_TEMPORARY, "%s runs, and its coordinator does not answer: ask again; its log is %s/log", dir, dir);
    } else {
        rc = cli_status_of_ended(dir, args_value(&a, "--json") != NULL, &err);
    }
    return rc < 0 ? cli_fail("status", &err) : 0;
}

static int not_running(const char *dir, struct err *err)
{
    char status[32], resume[RESUME_COMMAND_BYTES];
    struct holder owner;
    if (runs_elsewhere(dir, &owner) && owner.job)
        return err_set(err, ERR_TEMPORARY, "%s runs on node %s: scancel %llu saves it and ends it", dir, owner.host, (unsigned long long)owner.job);
    if (rundirs_lives(dir))
        return err_set(err, ERR_TEMPORARY, "%s runs, and its coordinator does not answer: try again, or end `viaduct run` itself", dir);
    ended(dir, status);
    rundirs_resume_command(dir, resume, sizeof resume);
    bool over = strcmp(status, "completed") == 0 || rundirs_diverged(dir);
    return err_set(err, ERR_CONFLICT, "%s is not running (%s)%s%s", dir, status, over ? "" : "; go on with: ", over ? "" : resume);
}

int verb_stop(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("stop", &err);
    int rc = open_run("stop", &a, &run);
    if (rc < 0)
        return err_exit_code(rc);
    if (reach(&run, a.positional[0], NULL, &err) < 0) {
        not_running(a.positional[0], &err);
        return cli_fail("stop", &err);
    }
    char status[32] = "running";
    for (uint64_t until = clock_now_ms() + STOP_WAIT_MS; clock_now_ms() < until && strcmp(status, "running") == 0;
         nanosleep(&(struct timespec){0, 50000000}, NULL))
        rundirs_status(a.positional[0], status, sizeof status);
    if (strcmp(status, "running") == 0) {
        err_set(&err, ERR_TEMPORARY, "%s was told to stop and still saves; look again with: viaduct status %s", a.positional[0], a.positional[0]);
        return cli_fail("stop", &err);
    }
    fprintf(stderr, "%s: %s\n", a.positional[0], status);
    return 0;
}
