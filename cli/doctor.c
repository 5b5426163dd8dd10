/* `viaduct doctor`: what this machine has, what is missing and how to get it. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "device/device.h"

struct finding { const char *what, *library, *path, *remedy; };

/* A part is found by its library (dlopen) or by a path. */
static const struct finding findings[] = {
    {"GPU driver", "libcuda.so.1", NULL, "no NVIDIA driver: the CPU path is complete without it"},
    {"NCCL", "libnccl.so.2", NULL, "install libnccl2 where there are GPUs"},
    {"Open MPI", "libmpi.so.40", NULL, "apt-get install openmpi-bin"},
    {"RDMA verbs", "libibverbs.so.1", NULL, "apt-get install libibverbs1"},
    {"Slurm", NULL, "/usr/bin/sbatch", "apt-get install slurm-client"},
    {"Fashion-MNIST", NULL, "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", "apt-get install dataset-fashion-mnist"},
};

static bool is_there(const struct finding *f)
{
    if (f->path)
        return access(f->path, R_OK) == 0;
    void *handle = dlopen(f->library, RTLD_LAZY | RTLD_LOCAL);
    if (handle)
        dlclose(handle);
    return handle != NULL;
}

int verb_doctor(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct machine m;
    if (args_parse(&a, argc, argv, &err) < 0 || machine_probe(&m, &err) < 0)
        return cli_fail("doctor", &err);
    char cpu[300];
    json_quote(cpu, sizeof cpu, m.cpu_name);
    if (args_value(&a, "--json"))
        printf("{\"cpu\":%s,\"packages\":%u,\"numa_nodes\":%u,\"cores\":%u,\"threads\":%u,\"memory_bytes\":%llu,\"parts\":{", cpu, m.packages,
               m.numa_nodes, m.cores, m.threads, (unsigned long long)m.memory_bytes);
    else
        printf("%s: %u cores, %u threads, %u NUMA node(s), %.1f GiB\n", m.cpu_name, m.cores, m.threads, m.numa_nodes,
               (double)m.memory_bytes / (1u << 30));
    for (unsigned i = 0; i < ARRAY_LEN(findings); i++) {
        bool there = is_there(&findings[i]);
        if (args_value(&a, "--json"))
            printf("%s\"%s\":%s", i ? "," : "", findings[i].what, there ? "true" : "false");
        else
            printf("  %-14s %s%s\n", findings[i].what, there ? "found" : "missing: ", there ? "" : findings[i].remedy);
    }
    if (args_value(&a, "--json")) {
        printf("},\"failpoints\":[");
        for (unsigned f = 0; f < FAILPOINTS; f++)
            printf("%s\"%s\"", f ? "," : "", failpoint_name((enum failpoint)f));
        printf("]}\n");
    }
    return 0;
}
