/* `viaduct plan`: who would get what, what it costs, and why. Starts nothing. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "cli/cli.h"
#include "coordinator/coordinator.h"

/* JSON text with one member more. */
static int print_with_worker(const struct run_plan *p, const char *worker, FILE *out)
{
    char *text = NULL, quoted[2 * PATH_MAX];
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    int rc = run_plan_print_json(p, f);
    if (fclose(f) != 0 || size == 0 || text[0] != '{')
        rc = -1;
    json_quote(quoted, sizeof quoted, worker);
    if (rc == 0)
        fprintf(out, "{\"worker\":%s,%s", quoted, text + 1);
    free(text);
    return rc;
}

void cli_print_plan(const struct run_plan *p, const char *worker, FILE *out)
{
    run_plan_print(p, out);
    if (worker)
        fprintf(out, "note: the ranks run %s; parameters, memory, times and bytes above are those of the spec's own model, not of that program's\n", worker);
}

int cli_print_plan_json(const struct run_plan *p, const char *worker, FILE *out)
{
    return worker ? print_with_worker(p, worker, out) : run_plan_print_json(p, out);
}

static int plan(const struct job_spec *spec, const char *worker, bool json, struct err *err)
{
    struct run_plan *p;
    int rc = 0;
    TRY(run_plan_make(spec, &p, err));
    if (json)
        rc = cli_print_plan_json(p, worker, stdout);
    else
        cli_print_plan(p, worker, stdout);
    run_plan_free(p);
    return rc;
}

int verb_plan(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0)
        rc = args_one_spec(&a, "plan SPEC [--worker PROGRAM] [--json] [key.path=value ...]", &err);
    if (rc < 0)
        return cli_fail("plan", &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    rc = cli_load_spec("plan", job, a.positional[0], &a, true);
    if (rc == 0 && (rc = plan(&job->spec, args_value(&a, "--worker"), args_value(&a, "--json") != NULL, &err)) < 0)
        cli_fail("plan", &err);
    job_fini(job);
    free(job);
    return err_exit_code(rc);
}
