/* Verbs about the spec and the program itself: validate, schema, version. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"
#include "net/net.h"

int verb_validate(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0 || args_one_spec(&a, "validate SPEC [key.path=value ...]", &err) < 0)
        return cli_fail("validate", &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    int rc = job_load(job, a.positional[0], a.override, a.override_count, true, &err);
    if (args_value(&a, "--json"))
        problems_print_json(&job->problems, stdout);
    else if (job->problems.count)
        problems_print(&job->problems, stderr);
    else if (rc < 0)
        cli_fail("validate", &err);
    if (rc == 0 && !args_value(&a, "--json"))
        printf("%s: valid\n", a.positional[0]);
    job_fini(job);
    free(job);
    return err_exit_code(rc);
}

int verb_schema(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("schema", &err);
    if (args_value(&a, "--man"))
        cli_print_spec_man(stdout);
    else if (args_value(&a, "--markdown"))
        cli_print_spec_markdown(stdout);
    else
        job_schema_print(stdout);
    return 0;
}

int verb_version(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("version", &err);
    if (args_value(&a, "--json"))
        printf("{\"version\":\"%s\",\"frame_version\":%d,\"spec\":\"v1\"}\n", VIADUCT_VERSION, FRAME_VERSION);
    else
        printf("viaduct %s (frames %d, spec v1)\n", VIADUCT_VERSION, FRAME_VERSION);
    return 0;
}
