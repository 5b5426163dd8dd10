/* The batch script of a job, and the steps that start agents on its nodes. Spec values are words by the time they come here (jobs/), so an #SBATCH line
 * has no way out; paths are quoted for the shell. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "slurm/slurm.h"

unsigned slurm_site_count(const struct job_spec *spec)
{
    unsigned n = 0;
    for (unsigned i = 0; i < spec->site_count; i++)
        n += spec->sites[i].via == VIA_SLURM;
    return n;
}

unsigned slurm_node_count(const struct job_spec *spec)
{
    unsigned n = 0;
    for (unsigned i = 0; i < spec->site_count; i++)
        n += spec->sites[i].via == VIA_SLURM ? spec->sites[i].nodes : 0;
    return n;
}

int slurm_first_site(const struct job_spec *spec)
{
    for (unsigned i = 0; i < spec->site_count; i++)
        if (spec->sites[i].via == VIA_SLURM)
            return (int)i;
    return -1;
}

static uint32_t cores_a_node(const struct job_site *site)
{
    for (uint32_t i = 0; i < site->slurm.option_count; i++)
        if (strcmp(site->slurm.option[i].name, "cpus-per-task") == 0)
            return (uint32_t)strtoul(site->slurm.option[i].value, NULL, 10);
    return (site->ranks + site->nodes - 1) / site->nodes * site->threads;
}

/* ---- the script ---- */
static int check_text(const char *what, const char *text, struct err *err)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            return err_set(err, ERR_USAGE, "%s holds a line end or another control character, which no batch script can: choose another name", what);
    return 0;
}

static void quote(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text; text++)
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    fputc('\'', out);
}

static void print_time(FILE *out, uint32_t s)
{
    uint32_t minutes = (s + 59) / 60;   /* Slurm counts in minutes, and rounds up */
    fprintf(out, "#SBATCH --time=%u-%02u:%02u:00\n", minutes / 1440, minutes / 60 % 24, minutes % 60);
}

static void print_site(FILE *out, const struct job_site *site)
{
    const struct job_slurm *s = &site->slurm;
    fprintf(out, "\n# Site %s: one agent on each of %u node%s; %u rank%s in all, %u parameter-server shard%s on the first.\n", site->name, site->nodes,
            site->nodes == 1 ? "" : "s", site->ranks, site->ranks == 1 ? "" : "s", site->ps_shards, site->ps_shards == 1 ? "" : "s");
    if (s->partition)
        fprintf(out, "#SBATCH --partition=%s\n", s->partition);
    if (s->account)
        fprintf(out, "#SBATCH --account=%s\n", s->account);
    fprintf(out, "#SBATCH --nodes=%u\n#SBATCH --ntasks=%u\n#SBATCH --ntasks-per-node=1\n#SBATCH --cpus-per-task=%u\n", site->nodes, site->nodes, cores_a_node(site));
    if (s->time_s)
        print_time(out, s->time_s);
    for (uint32_t i = 0; i < s->option_count; i++)
        if (strcmp(s->option[i].name, "cpus-per-task") != 0)
            fprintf(out, s->option[i].value ? "#SBATCH --%s=%s\n" : "#SBATCH --%s\n", s->option[i].name, s->option[i].value);
}

static void print_options(FILE *out, const char *name, const struct job_slurm *first)
{
    fprintf(out, "#SBATCH --job-name=%s\n"
                 "#SBATCH --open-mode=append\n"
                 "#SBATCH --requeue\n"
                 "#SBATCH --signal=B:USR1@%u\n", name, first->drain_s);   /* a job without a limit of its own still has the partition's */
}

static void print_head(FILE *out, const struct job_spec *spec, const struct job_slurm *first)
{
    fprintf(out, "#!/bin/bash\n"
                 "# Run `%s` under Slurm, made by `viaduct slurm render`. It may be edited: Viaduct needs what stands below the last #SBATCH line,\n"
                 "# and the options --signal, --requeue and --open-mode.\n"
                 "#\n"
                 "# This script's process becomes `viaduct run`, on the first node and outside every step: it starts the coordinator beside itself and,\n"
                 "# by srun, one agent on each node. %u s before the time limit it is signalled, saves a checkpoint and requeues the job;\n"
                 "# so it does when it is preempted. Each later start of this job goes on from the newest checkpoint.\n",
            spec->name, first->drain_s);
    print_options(out, spec->name, first);
}

/* Quoted, these mean themselves; shellcheck asks whether that was meant. */
static void print_leave(FILE *out, bool quoted)
{
    if (quoted)
        fprintf(out, "# shellcheck disable=SC2016\n");
}

static void print_path(FILE *out, const char *name, const char *path)
{
    print_leave(out, strpbrk(path, "$`"));
    fprintf(out, "%s=", name);
    quote(out, path);
    fputc('\n', out);
}

static void print_beginning(FILE *out)
{
    fprintf(out, "\nset -eu\n"
                 "trap '' USR1                  # until viaduct listens: it would end the script\n"
                 "export SLURM_EXPORT_ENV=ALL   # also when it was submitted with --export=NONE\n");
}

static bool overrides_are_quoted(const struct slurm_script *what)
{
    unsigned i = 0;
    while (i < what->override_count && !strpbrk(what->overrides[i], "$`"))
        i++;
    return i < what->override_count;
}

static void print_overrides(FILE *out, const struct slurm_script *what)
{
    for (unsigned i = 0; i < what->override_count; i++) {
        fputc(' ', out);
        quote(out, what->overrides[i]);
    }
    fputc('\n', out);
}

static void print_body(FILE *out, const struct slurm_script *what)
{
    print_beginning(out);
    print_path(out, "viaduct", what->program);
    print_path(out, "spec", what->spec);
    print_path(out, "run", what->run_dir);
    fprintf(out, "\n# The second start, after a requeue or a new submission, resumes what the first began.\n"
                 "if [ -e \"$run/state/job\" ]; then set -- --resume; else set --; fi\n");
    print_leave(out, overrides_are_quoted(what));
    fprintf(out, "exec \"$viaduct\" run \"$spec\" --dir \"$run\" \"$@\"");
    print_overrides(out, what);
}

static int check_texts(const struct slurm_script *what, struct err *err)
{
    TRY(check_text("the program's path", what->program, err));
    TRY(check_text("the spec's path", what->spec, err));
    TRY(check_text("the run directory's path", what->run_dir, err));
    TRY(check_text("the token's path", what->token ? what->token : "", err));
    for (unsigned i = 0; i < what->override_count; i++)
        TRY(check_text("an override", what->overrides[i], err));
    return 0;
}

int slurm_render_join(const struct job_spec *spec, unsigned site, const struct slurm_script *what, FILE *out, struct err *err)
{
    const struct job_site *s = &spec->sites[site];
    TRY(check_texts(what, err));
    TRY(check_text("coordinator.address", spec->address, err));
    fprintf(out, "#!/bin/bash\n"
                 "# Site `%s` of run `%s`, as a Slurm job of its own: made by `viaduct slurm render --site`. It may be edited: Viaduct needs what stands below\n"
                 "# the last #SBATCH line, and the options --signal, --requeue and --open-mode.\n"
                 "#\n"
                 "# This script's process becomes `viaduct join`. %u s before the time limit it is signalled: the other sites take over what this one holds, and\n"
                 "# the job is requeued; so it is when it is preempted. Each later start joins again with what it has in its folder: the token is for the first.\n",
            s->name, spec->name, s->slurm.drain_s);
    print_options(out, s->name, &s->slurm);
    print_site(out, s);
    print_beginning(out);
    print_path(out, "viaduct", what->program);
    print_path(out, "run", what->run_dir);
    print_path(out, "token", what->token);
    fputc('\n', out);
    print_leave(out, strpbrk(spec->address, "$`") || overrides_are_quoted(what));
    fprintf(out, "exec \"$viaduct\" join ");
    quote(out, spec->address);
    fprintf(out, " --site %s --token \"$token\" --dir \"$run\"", s->name);
    print_overrides(out, what);
    return 0;
}

int slurm_render(const struct job_spec *spec, const struct slurm_script *what, FILE *out, struct err *err)
{
    int first = slurm_first_site(spec);
    if (first < 0)
        return err_set(err, ERR_USAGE, "the spec has no site that is `via: slurm`; start it with: viaduct run SPEC");
    TRY(check_texts(what, err));
    print_head(out, spec, &spec->sites[first].slurm);
    for (unsigned i = (unsigned)first; i < spec->site_count; i++) {
        if (spec->sites[i].via != VIA_SLURM)
            continue;
        if (i != (unsigned)first)
            fprintf(out, "\n#SBATCH hetjob\n");
        print_site(out, &spec->sites[i]);
    }
    print_body(out, what);
    return 0;
}

int slurm_output_option(const char *run_dir, char *out, size_t size, struct err *err)
{
    size_t n = (size_t)snprintf(out, size, "--output=");
    for (const char *p = run_dir; *p && n + 16 < size; p++)
        n += (size_t)snprintf(out + n, size - n, *p == '%' ? "%%%%" : "%c", *p);
    if (n + 16 >= size)
        return err_set(err, ERR_USAGE, "the run directory's path is too long");
    snprintf(out + n, size - n, "/slurm/%%j.out");
    return 0;
}

/* ---- steps ---- */
void slurm_step_of(const struct job_spec *spec, unsigned site, unsigned node, bool heterogeneous, const char *program, const char *run_dir, struct slurm_step *out)
{
    const struct job_site *s = &spec->sites[site];
    unsigned n = 0, t = 0, component = 0;
    for (unsigned i = 0; i < site; i++)
        component += spec->sites[i].via == VIA_SLURM;
    if (heterogeneous) {
        snprintf(out->text[t], sizeof out->text[t], "--het-group=%u", component);
        out->argv[n++] = out->text[t++];
    }
    snprintf(out->text[t], sizeof out->text[t], node ? "--job-name=viaduct-%.64s.%u" : "--job-name=viaduct-%.64s", s->name, node);
    out->argv[n++] = out->text[t++];
    snprintf(out->text[t], sizeof out->text[t], "--relative=%u", node);
    out->argv[n++] = out->text[t++];
    snprintf(out->text[t], sizeof out->text[t], "--cpus-per-task=%u", cores_a_node(s));   /* srun takes it from the job in some versions only */
    out->argv[n++] = out->text[t++];
    /* The agents of a site must outlive each other: no MPI bootstrap, and no end of all when one ends. */
    static const char *const always[] = {"--nodes=1", "--ntasks=1", "--mpi=none", "--kill-on-bad-exit=0", "--overlap", "--input=none", "--export=ALL"};
    for (unsigned i = 0; i < ARRAY_LEN(always); i++)
        out->argv[n++] = always[i];
    snprintf(out->text[t], sizeof out->text[t], "%u", node);
    const char *const agent[] = {program, "agent", "--run", run_dir, "--site", s->name, "--node", out->text[t], NULL};
    for (unsigned i = 0; i < ARRAY_LEN(agent); i++)
        out->argv[n++] = agent[i];
}
