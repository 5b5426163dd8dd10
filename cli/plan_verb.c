/* `viaduct plan`: who would get what, what it costs, and why. Starts nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "cli/cli.h"
#include "coordinator/coordinator.h"

static int plan(const struct job_spec *spec, bool json, struct err *err)
{
    struct run_plan *p;
    int rc = 0;
    TRY(run_plan_make(spec, &p, err));
    if (json)
        rc = run_plan_print_json(p, stdout);
    else
        run_plan_print(p, stdout);
    run_plan_free(p);
    return rc == 0 && fflush(stdout) == 0 ? 0 : err_set(err, ERR_IO, "the plan could not be written to stdout");
}

int verb_plan(int argc, char **argv)
{
    static const char *const options[] = {"--json", NULL};
    struct args a;
    struct err err = ERR_INIT;
    int rc = args_parse(&a, options, argc, argv, &err);
    if (rc == 0 && a.positional_count != 1)
        rc = err_set(&err, ERR_USAGE, "one spec is needed: viaduct plan SPEC [--json] [key.path=value ...]");
    if (rc < 0)
        return cli_fail("plan", &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    rc = cli_load_spec("plan", job, a.positional[0], &a, true);
    if (rc == 0 && (rc = plan(&job->spec, a.value[0] != NULL, &err)) < 0)
        cli_fail("plan", &err);
    job_fini(job);
    free(job);
    return err_exit_code(rc);
}
