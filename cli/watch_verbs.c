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
#define STOP_WAIT_MS 30000
#define BEAT_MS 3000

static int open_run(const char *verb, const struct args *a, struct rundir *run)
{
    struct err err = ERR_INIT;
    int rc = a->positional_count == 1 ? rundir_open(run, a->positional[0], &err)
                                      : err_set(&err, ERR_USAGE, "one run directory is needed: viaduct %s RUN", verb);
    if (rc < 0)
        cli_fail(verb, &err);
    return rc;
}

/* A run on another host, whose coordinator is out of reach: who runs it; false: nobody, as far as can be seen from here. */
static bool runs_elsewhere(const char *dir, struct holder *owner)
{
    struct holder me = holder_self();
    return lease_owner(dir, owner) && strcmp(owner->host, me.host) != 0 && lease_owner_lives(dir, &me, BEAT_MS);
}

int verb_status(int argc, char **argv)
{
    static const char *const options[] = {"--json", NULL};
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    if (args_parse(&a, options, argc, argv, &err) < 0)
        return cli_fail("status", &err);
    int rc = open_run("status", &a, &run);
    if (rc < 0)
        return err_exit_code(rc);
    char *json = NULL, line[512], status[32];
    if (live_ask(&run, ANSWER_MS, &json, &err) == 0) {
        live_line(json, line, sizeof line);
        printf("%s\n", a.value[0] ? json : line);
        free(json);
        return 0;
    }
    rundirs_status(a.positional[0], status, sizeof status);
    if (!*status) {
        err_set(&err, ERR_TEMPORARY, "%s: no coordinator answers and no report was written; see %s/log", a.positional[0], a.positional[0]);
        return cli_fail("status", &err);
    }
    struct holder owner;
    char who[200];
    bool elsewhere = strcmp(status, "running") == 0 && runs_elsewhere(a.positional[0], &owner), died = strcmp(status, "running") == 0 && !elsewhere;
    if (elsewhere && !a.value[0]) {
        holder_text(&owner, who, sizeof who);
        printf("running: %s; %s/metrics.jsonl has its newest step\n", who, a.positional[0]);
        return 0;
    }
    if (a.value[0])
        printf("{\"phase\":\"%s\"}\n", died ? "interrupted" : status);
    else if (died)
        printf("interrupted: nothing runs; go on with: viaduct run SPEC --resume --dir %s\n", a.positional[0]);
    else
        live_summary(a.positional[0], stdout);
    return 0;
}

int verb_stop(int argc, char **argv)
{
    static const char *const options[] = {NULL};
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    if (args_parse(&a, options, argc, argv, &err) < 0)
        return cli_fail("stop", &err);
    int rc = open_run("stop", &a, &run);
    if (rc < 0)
        return err_exit_code(rc);
    if (live_stop(&run, ANSWER_MS, &err) < 0) {
        struct err why = err;
        struct holder owner;
        if (runs_elsewhere(a.positional[0], &owner) && owner.job)
            err_set(&err, why.code, "%s runs on node %s: scancel %llu saves it and ends it", a.positional[0], owner.host, (unsigned long long)owner.job);
        else
            err_set(&err, why.code, "%s does not run: no coordinator answers; `viaduct status %s` tells how it ended (%s)", a.positional[0], a.positional[0], why.text);
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
