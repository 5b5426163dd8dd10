/* What the machine has, by hwloc; its memory by the kernel, because hwloc counts what the NUMA nodes say, which a container may hide in part. */
#include <hwloc.h>
#include <inttypes.h>
#include <stdio.h>

#include "device/device.h"

static uint64_t memory_total_bytes(void)
{
    char line[256];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemTotal: %" SCNu64 " kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib * 1024;
}

int machine_probe(struct machine *m, struct err *err)
{
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) < 0)
        return err_set(err, ERR_FAILED, "hwloc cannot start");
    if (hwloc_topology_load(t) < 0) {
        hwloc_topology_destroy(t);
        return err_set(err, ERR_FAILED, "hwloc cannot read this machine's topology");
    }
    int packages = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PACKAGE), nodes = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
    int cores = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE), threads = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU);
    *m = (struct machine){.packages = packages > 0 ? (unsigned)packages : 1, .numa_nodes = nodes > 0 ? (unsigned)nodes : 1};
    m->threads = threads > 0 ? (unsigned)threads : 1;
    m->cores = cores > 0 ? (unsigned)cores : m->threads;
    hwloc_obj_t root = hwloc_get_root_obj(t), package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
    uint64_t total = memory_total_bytes();
    m->memory_bytes = total ? total : root->total_memory;
    const char *name = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    snprintf(m->cpu_name, sizeof m->cpu_name, "%s", name ? name : "unknown CPU");
    hwloc_topology_destroy(t);
    return 0;
}
