/* The spec to begin with. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "jobs/jobs.h"

/* A path as YAML has it; in quotes where it would not stand for itself. */
static void print_path(FILE *out, const char *path)
{
    char quoted[9000];
    bool plain = strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-") == strlen(path);
    if (!plain)
        json_quote(quoted, sizeof quoted, path);
    fputs(plain ? path : quoted, out);
}

static void print_set(FILE *out, const char *name, const char *const file[2])
{
    fprintf(out, "  %-7s{images: ", name);
    print_path(out, file[0]);
    fprintf(out, ",\n          labels: ");
    print_path(out, file[1]);
    fprintf(out, "}\n");
}

static void print_site(FILE *out, const struct job_init *w, unsigned i)
{
    static const char *const via[] = {[VIA_LOCAL] = "local", [VIA_MPIRUN] = "mpirun", [VIA_SLURM] = "slurm", [VIA_JOIN] = "join"};
    static const char *const first[] = {[VIA_LOCAL] = "onprem", [VIA_MPIRUN] = "cluster", [VIA_SLURM] = "onprem", [VIA_JOIN] = "home"};
    enum job_via v = w->via == VIA_JOIN && i == 0 ? VIA_LOCAL : w->via;
    const char *name = i == 0 ? w->sites == 1 && v == VIA_LOCAL ? "local" : first[w->via] : w->via == VIA_JOIN ? "edge" : "cloud";
    char number[12] = "";
    if (i > 1)
        snprintf(number, sizeof number, "-%u", i);
    fprintf(out, "  - {name: %s%s, via: %s, ranks: %u%s}\n", name, number, via[v], w->ranks, v == VIA_SLURM ? ", time: 4h" : "");
}

void job_init_print(FILE *out, const struct job_init *w)
{
    static const char *const hints[] = {
        [VIA_LOCAL] = "ranks: processes, on the cores of this machine",
        [VIA_MPIRUN] = "mpirun -n RANKS viaduct run SPEC",
        [VIA_SLURM] = "viaduct submit SPEC; partition, account, slurm: {mem: 8G, ...} may be added",
        [VIA_JOIN] = "viaduct run SPEC says how a machine joins",
    };
    bool cnn = strcmp(w->family, "cnn") == 0;
    fprintf(out, "viaduct: v1\nname: %s\nmodel: {family: %s, classes: %u, input: [1, %u, %u]%s}   # or %s\ndata:\n", w->name, w->family, w->classes, w->height, w->width,
            cnn ? "" : ", hidden: [256, 128]", cnn ? "mlp" : "cnn");
    print_set(out, "train:", w->train);
    if (w->eval[0])
        print_set(out, "eval:", w->eval);
    fprintf(out,
            "train:\n"
            "  epochs: 1\n"
            "  batch: 256                                            # over all sites\n"
            "  optimizer: {name: adamw, lr: %s, weight_decay: 0.01, schedule: cosine, final: 0.01, warmup: 117}\n", cnn ? "0.01" : "0.002");
    if (w->via == VIA_JOIN)
        fprintf(out, "coordinator: {listen: \"0.0.0.0:7000\", address: \"%s:7000\"}   # as those that join reach it\n", w->host);
    fprintf(out, "sites:                                                  # %s\n", hints[w->via]);
    for (unsigned i = 0; i < w->sites; i++)
        print_site(out, w, i);
}
