/* Verbs of Slurm: slurm render, submit. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/join.h"
#include "cli/rundirs.h"
#include "slurm/slurm.h"

#define SBATCH_MS 60000
#define SQUEUE_MS 20000

static int own_program(char out[PATH_MAX], struct err *err)
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n < 0)
        return err_errno(err, errno, "cannot find our own program");
    out[n] = '\0';
    return 0;
}

/* The whole path of a folder that need not be there yet. */
static int whole_path(const char *dir, char *out, size_t size, struct err *err)
{
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here))
        return err_errno(err, errno, "cannot tell the present folder");
    int n = dir[0] == '/' ? snprintf(out, size, "%s", dir) : snprintf(out, size, "%s/%s", here, dir);
    return n < (int)size ? 0 : err_set(err, ERR_USAGE, "--dir is too long");
}

static int run_path(const struct job *job, const char *dir, char *out, size_t size, struct err *err)
{
    char fallback[300];
    snprintf(fallback, sizeof fallback, "runs/%s", job->spec.name);
    return whole_path(dir ? dir : fallback, out, size, err);
}

/* *joins: a site that a job of another cluster becomes; NULL: the run's own job. */
static int find_site(const struct job_spec *spec, const char *name, const struct job_site **joins, struct err *err)
{
    const char *names[SITES_MAX];
    unsigned n = 0;
    *joins = NULL;
    for (unsigned i = 0; name && i < spec->site_count; i++) {
        const struct job_site *site = &spec->sites[i];
        if (site->via != VIA_SLURM && site->via != VIA_JOIN)
            continue;
        names[n++] = site->name;
        if (strcmp(site->name, name) != 0)
            continue;
        *joins = site->via == VIA_JOIN ? site : NULL;
        if (*joins && spec->coordinator_door)
            return err_set(err, ERR_USAGE, "site '%s' joins at the front door of '%s', under a name that only the running job has: write its batch script by hand, with the "
                           "line that `viaduct run` prints", name, spec->coordinator_door);
        return 0;
    }
    const char *nearest = name ? nearest_name(name, names, n) : NULL;
    if (!name)
        return 0;
    return err_set(err, ERR_USAGE, "--site %s: the spec has no site of that name that is `via: slurm` or `via: join`%s%s%s", name, nearest ? "; did you mean '" : "", nearest ? nearest : "",
                   nearest ? "'?" : "");
}

/* ---- render ---- */
/* Of the overrides the joining machine gets those of its data: what others say of sites and coordinator stands in the script, and nothing else is its own. */
static int overrides_of_visitor(const struct args *a, const char *out[], unsigned *count, struct err *err)
{
    *count = 0;
    for (unsigned i = 0; i < a->override_count; i++) {
        const char *o = a->override[i];
        if (strncmp(o, "sites", 5) == 0 || strncmp(o, "coordinator", 11) == 0)
            continue;
        TRY(join_check_override(o, err));
        out[(*count)++] = o;
    }
    return 0;
}

static int render_join(const struct job *job, const struct job_site *site, const struct args *a, struct err *err)
{
    char program[PATH_MAX], dir[PATH_MAX], token[PATH_MAX], fallback[160];
    const char *in = args_value(a, "--dir"), *token_file = args_value(a, "--token"), *overrides[ARRAY_LEN(a->override)];
    unsigned count;
    if (!token_file)
        return err_set(err, ERR_USAGE, "site '%s' joins: say with --token FILE where its token will lie on its cluster (`viaduct run` and `viaduct token` make it)", site->name);
    TRY(overrides_of_visitor(a, overrides, &count, err));
    snprintf(fallback, sizeof fallback, "runs/join-%.100s", site->name);
    TRY(own_program(program, err));
    TRY(whole_path(in ? in : fallback, dir, sizeof dir, err));
    TRY(whole_path(token_file, token, sizeof token, err));
    struct slurm_script what = {.program = program, .spec = "", .run_dir = dir, .token = token, .overrides = overrides, .override_count = count};
    return slurm_render_join(&job->spec, (unsigned)(site - job->spec.sites), &what, stdout, err);
}

static int render(const struct job *job, const char *spec_path, const struct args *a, struct err *err)
{
    char program[PATH_MAX], spec[PATH_MAX], dir[PATH_MAX];
    const struct job_site *joins;
    TRY(find_site(&job->spec, args_value(a, "--site"), &joins, err));
    if (joins)
        return render_join(job, joins, a, err);
    TRY(own_program(program, err));
    TRY(run_path(job, args_value(a, "--dir"), dir, sizeof dir, err));
    if (!realpath(spec_path, spec))
        return err_errno(err, errno, "%s", spec_path);
    struct slurm_script what = {.program = program, .spec = spec, .run_dir = dir, .overrides = a->override, .override_count = a->override_count};
    return slurm_render(&job->spec, &what, stdout, err);
}

int verb_slurm(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct job job = {0};
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("slurm", &err);
    if (a.positional_count != 2 || strcmp(a.positional[0], "render") != 0) {
        args_usage(&a, &err);
        return cli_fail("slurm", &err);
    }
    int rc = cli_load_spec("slurm render", &job, a.positional[1], &a, false);
    if (rc == 0 && (rc = render(&job, a.positional[1], &a, &err)) < 0)
        cli_fail("slurm render", &err);
    job_fini(&job);
    return rc < 0 ? err_exit_code(rc) : 0;
}

/* ---- submit ---- */
struct submitted { char dir[PATH_MAX], script[PATH_MAX + 32], id[64], cluster[64]; bool completed; };

static int write_script(const struct job *job, const struct submitted *s, struct err *err)
{
    char program[PATH_MAX], spec[PATH_MAX + 32], *text = NULL;
    size_t size = 0;
    TRY(own_program(program, err));
    snprintf(spec, sizeof spec, "%s/slurm/job.yaml", s->dir);
    TRY(fs_publish_file(&fs_real, spec, job->resolved_yaml, strlen(job->resolved_yaml), err));
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    struct slurm_script what = {.program = program, .spec = spec, .run_dir = s->dir};
    int rc = slurm_render(&job->spec, &what, f, err);
    CHECK(fclose(f) == 0);
    if (rc == 0)
        rc = fs_publish_file(&fs_real, s->script, text, size, err);
    free(text);
    return rc;
}

/* Two jobs on one run directory would only refuse each other, hours later. */
static int check_not_queued(const char *dir, struct err *err)
{
    char path[PATH_MAX + 32], answer[300];
    void *bytes = NULL;
    size_t size = 0;
    struct err none = ERR_INIT;
    struct holder owner;
    char id[24] = "";
    snprintf(path, sizeof path, "%s/slurm/id", dir);
    if (lease_owner(dir, &owner) && owner.job) {
        snprintf(id, sizeof id, "%llu", (unsigned long long)owner.job);
    } else if (fs_read_file(&fs_real, path, 64, &bytes, &size, &none) == 0) {
        snprintf(id, sizeof id, "%.*s", (int)MIN(strspn(bytes, "0123456789"), (size_t)20), (const char *)bytes);
        free(bytes);
    }
    const char *const argv[] = {"squeue", "-h", "-j", id, "-o", "%T", NULL};
    if (!id[0] || slurm_command(argv, SQUEUE_MS, answer, sizeof answer, &none) < 0 || !answer[0])   /* Slurm knows it no more */
        return 0;
    answer[strcspn(answer, "\n")] = '\0';
    return err_set(err, ERR_CONFLICT, "%s belongs to Slurm job %s, which is %.40s: wait for its end, or end it with scancel %s", dir, id, answer, id);
}

static int sbatch(struct submitted *s, struct err *err)
{
    char answer[300], output[PATH_MAX + 64], path[PATH_MAX + 32];
    TRY(slurm_output_option(s->dir, output, sizeof output, err));
    const char *const argv[] = {"sbatch", "--parsable", output, s->script, NULL};
    if (slurm_command(argv, SBATCH_MS, answer, sizeof answer, err) < 0) {
        struct err why = *err;
        return err_set(err, why.code, "%s; nothing was submitted (`viaduct doctor` says whether Slurm answers here)", why.text);
    }
    answer[strcspn(answer, "\n")] = '\0';
    char *semicolon = strchr(answer, ';');
    snprintf(s->cluster, sizeof s->cluster, "%.60s", semicolon ? semicolon + 1 : "");
    snprintf(s->id, sizeof s->id, "%.*s", (int)strcspn(answer, ";"), answer);
    if (!s->id[0] || strspn(s->id, "0123456789") != strlen(s->id))
        return err_set(err, ERR_FAILED, "sbatch answers '%.100s' where a job id was due", answer);
    snprintf(path, sizeof path, "%s/slurm/id", s->dir);
    return fs_publish_file(&fs_real, path, s->id, strlen(s->id), err);
}

static int submit(const struct job *job, const char *dir, struct submitted *s, struct err *err)
{
    char path[PATH_MAX + 32];
    if (slurm_first_site(&job->spec) < 0)
        return err_set(err, ERR_USAGE, "the spec has no site that is `via: slurm`; start it with: viaduct run SPEC");
    TRY(slurm_find("sbatch", path, sizeof path, err));
    TRY(run_path(job, dir, s->dir, sizeof s->dir, err));
    TRY(rundirs_completed(s->dir, job, &s->completed, err));
    if (s->completed)
        return 0;
    TRY(check_not_queued(s->dir, err));
    snprintf(path, sizeof path, "%s/slurm", s->dir);
    snprintf(s->script, sizeof s->script, "%s/slurm/job.sh", s->dir);
    TRY(fs_mkdirs(&fs_real, path, err));
    TRY(write_script(job, s, err));
    return sbatch(s, err);
}

static void print_submitted(const struct job_spec *spec, const struct submitted *s, bool json)
{
    char dir[2 * PATH_MAX], cluster[200];
    json_quote(dir, sizeof dir, s->dir);
    json_quote(cluster, sizeof cluster, s->cluster);
    if (!json) {
        if (s->completed)
            printf("%s is completed already\n", s->dir);
        else
            printf("Slurm job %s%s%s, run directory %s\n", s->id, s->cluster[0] ? " on cluster " : "", s->cluster, s->dir);
        return;
    }
    printf("{\"completed\":%s,\"dir\":%s,\"jobs\":[", s->completed ? "true" : "false", dir);
    if (!s->completed) {
        printf("{\"id\":%s,\"cluster\":%s,\"sites\":[", s->id, s->cluster[0] ? cluster : "null");
        for (unsigned i = 0, n = 0; i < spec->site_count; i++)
            if (spec->sites[i].via == VIA_SLURM)
                printf("%s\"%s\"", n++ ? "," : "", spec->sites[i].name);
        printf("]}");
    }
    printf("]}\n");
}

int verb_submit(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct job job = {0};
    if (args_parse(&a, argc, argv, &err) < 0 || args_one_spec(&a, "submit SPEC [--dir RUN] [--json] [key.path=value ...]", &err) < 0)
        return cli_fail("submit", &err);
    struct submitted *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int rc = cli_load_spec("submit", &job, a.positional[0], &a, false);
    if (rc == 0 && (rc = submit(&job, args_value(&a, "--dir"), s, &err)) < 0)
        cli_fail("submit", &err);
    if (rc == 0)
        print_submitted(&job.spec, s, args_value(&a, "--json") != NULL);
    free(s);
    job_fini(&job);
    return rc < 0 ? err_exit_code(rc) : 0;
}
