/* What the run's side says of sites that come and go: `token` makes another token, `drain` sends a site away. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/join.h"
#include "cli/live.h"
#include "cli/rundirs.h"
#include "coordinator/coordinator.h"

#define ANSWER_MS 10000

static int find_site(const char *run_dir, const char *site, struct job *job, unsigned *index, struct err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/spec.yaml", run_dir);
    TRY(job_load(job, path, NULL, 0, false, err));
    TRY(join_find_site(&job->spec, site, index, err));
    return job->spec.sites[*index].via == VIA_JOIN ? 0 : err_set(err, ERR_USAGE, "site '%s' is not `via: join`: it belongs to the run from its start", site);
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
    TRY(enrol_make_token(run->path, run->job, &job->spec, site, true, path, err));
    printf("%s\n", path);
    fprintf(stderr, "good once, on the machine that becomes site %s: viaduct join %s --site %s --token FILE\n", job->spec.sites[site].name,
            enrol_address(&job->spec, run->job, address), job->spec.sites[site].name);
    return 0;
}

static int drain_site(const struct rundir *run, const struct job *job, unsigned site, struct err *err)
{
    char status[32];
    int rc = live_drain(run, (uint8_t)site, ANSWER_MS, err);
    rundirs_status(run->path, status, sizeof status);
    if (rc < 0 && *status && strcmp(status, "running") != 0 && !rundirs_lives(run->path))
        return err_set(err, ERR_CONFLICT, "%s is not running (%s)", run->path, status);
    TRY(rc);
    fprintf(stderr, "site %s leaves: its lanes and copies are with the others\n", job->spec.sites[site].name);
    return 0;
}

int verb_token(int argc, char **argv) { return with_site("token", argc, argv, make_token); }
int verb_drain(int argc, char **argv) { return with_site("drain", argc, argv, drain_site); }
