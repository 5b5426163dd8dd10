/* `viaduct report`: writes the run page anew, for a run that still goes, that was killed, or of an earlier version of this program. */
#include <stdio.h>

#include "base/rundir.h"
#include "cli/cli.h"
#include "report/report.h"

int verb_report(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0)
        rc = a.positional_count == 1 ? rundir_open(&run, a.positional[0], &err) : err_set(&err, ERR_USAGE, "one run directory is needed: viaduct report RUN");
    if (rc == 0)
        rc = page_write(run.path, &err);
    if (rc < 0)
        return cli_fail("report", &err);
    printf("page: %s/report.html\n", run.path);
    return 0;
}
