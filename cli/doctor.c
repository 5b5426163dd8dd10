/* `viaduct doctor`: what this machine has, what is missing, what that matters for and how to get it. Libraries are looked at by opening them, commands by
 * running them with a limit of time; nothing is changed and nothing is left behind. */
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "collectives/collectives.h"
#include "device/device.h"
#include "slurm/slurm.h"

enum state { OK, MISSING, TOO_OLD, TOO_SMALL };
static const char *const state_names[] = {"ok", "missing", "too old", "too small"};

#define COMMAND_MS 3000
#define MIB (1024.0 * 1024.0)

/* What a probe looks at, and what it found, in words. */
struct look { const struct machine *machine; char found[240]; };
#define FOUND(l, ...) snprintf((l)->found, sizeof (l)->found, __VA_ARGS__)

/* ---- this machine ---- */
static enum state probe_cpu(struct look *l)
{
#if defined(__x86_64__)
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const char *isa = avx512 ? __builtin_cpu_supports("avx512vnni") ? "AVX-512 with VNNI" : "AVX-512" : __builtin_cpu_supports("avx2") ? "AVX2" : NULL;
#else
    const char *isa = NULL;
#endif
    FOUND(l, "%s, %u cores, %s", l->machine->cpu_name, l->machine->cores, isa ? isa : "kernels in plain C");
    return isa ? OK : TOO_OLD;
}

static enum state probe_cores(struct look *l)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    FOUND(l, "%d of %u hardware threads may be used by this process", n, l->machine->threads);
    return n >= 2 ? OK : TOO_SMALL;
}

static enum state probe_memory(struct look *l)
{
    FOUND(l, "%.1f GiB", (double)l->machine->memory_bytes / MIB / 1024);
    return (double)l->machine->memory_bytes >= 1024 * MIB ? OK : TOO_SMALL;
}

static enum state probe_files(struct look *l)
{
    struct rlimit r = {0, 0};
    getrlimit(RLIMIT_NOFILE, &r);
    FOUND(l, "%llu open files a process", (unsigned long long)r.rlim_cur);
    return r.rlim_cur >= 256 ? OK : TOO_SMALL;
}

static enum state free_space(struct look *l, const char *path, double least_mib)
{
    struct statvfs s;
    if (statvfs(path, &s) < 0 || access(path, W_OK) < 0)
        return FOUND(l, "%s cannot be written", path), MISSING;
    double mib = (double)s.f_bavail * (double)s.f_frsize / MIB;
    FOUND(l, "%.1f GiB free", mib / 1024);
    return mib >= least_mib ? OK : TOO_SMALL;
}

static enum state probe_shm(struct look *l) { return free_space(l, "/dev/shm", 256); }

/* A file without a name, so that nothing stays. */
static double write_speed(void)
{
    static char piece[1 << 20];
    int fd = open(".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    uint64_t begin = clock_now_ms();
    bool written = fd >= 0;
    for (unsigned i = 0; written && i < 16; i++)
        written = write(fd, piece, sizeof piece) == (ssize_t)sizeof piece;
    written = written && fsync(fd) == 0;
    uint64_t ms = clock_now_ms() - begin;
    if (fd >= 0)
        close(fd);
    return written ? 16000.0 / (double)MAX(ms, (uint64_t)1) : 0;
}

static enum state probe_disk(struct look *l)
{
    enum state state = free_space(l, ".", 1024);
    double speed = state == MISSING ? 0 : write_speed();
    size_t n = strlen(l->found);
    if (speed > 0)
        snprintf(l->found + n, sizeof l->found - n, " in this folder, written and synced at %.0f MiB/s", speed);
    return state;
}

static enum state probe_clock(struct look *l)
{
    struct timex t = {.modes = 0};
    bool kept = adjtimex(&t) != TIME_ERROR;
    char text[40];
    time_t now = time(NULL);
    struct tm tm;
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&now, &tm));
    FOUND(l, "%s, %s", text, kept ? "kept by a time service" : "no time service that the kernel knows of");
    return kept ? OK : MISSING;
}

static enum state probe_data(struct look *l)
{
    FOUND(l, "/usr/share/datasets/fashion-mnist");
    return access("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", R_OK) == 0 ? OK : MISSING;
}

/* A child tries; this process stays where it is. */
static enum state probe_netns(struct look *l)
{
    int status = 1;
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWNET) != 0);
    bool may = child > 0 && waitpid(child, &status, 0) == child && status == 0;
    FOUND(l, may ? "may be made" : geteuid() == 0 ? "root of a container without CAP_SYS_ADMIN" : "only root may make them");
    return may ? OK : MISSING;
}

/* ---- libraries ---- */
static void *function(void *library, const char *name) { return library ? dlsym(library, name) : NULL; }

static enum state probe_tls(struct look *l)
{
    const char *(*text)(int) = NULL;
    *(void **)&text = dlsym(RTLD_DEFAULT, "OpenSSL_version");
    FOUND(l, "%s", text ? text(0) : "no OpenSSL that tells its version");
    return !text ? MISSING : strncmp(text(0), "OpenSSL 1", 9) == 0 || strncmp(text(0), "OpenSSL 0", 9) == 0 ? TOO_OLD : OK;
}

static enum state probe_hdf5(struct look *l)
{
    unsigned v[3] = {0, 0, 0};
    int (*version)(unsigned *, unsigned *, unsigned *) = NULL;
    *(void **)&version = dlsym(RTLD_DEFAULT, "H5get_libversion");
    if (!version || version(&v[0], &v[1], &v[2]) < 0)
        return FOUND(l, "no HDF5 that tells its version"), MISSING;
    FOUND(l, "HDF5 %u.%u.%u", v[0], v[1], v[2]);
    return v[0] > 1 || v[1] >= 10 ? OK : TOO_OLD;
}

static enum state probe_mpi(struct look *l)
{
    char text[4096] = "", launcher[300];
    int length = 0, (*version)(char *, int *) = NULL;
    struct err ignored = ERR_INIT;
    void *library = dlopen("libmpi.so.40", RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    *(void **)&version = function(library, "MPI_Get_library_version");
    if (!version || version(text, &length) != 0)
        return FOUND(l, "no libmpi.so.40"), MISSING;
    bool started = slurm_find("mpirun", launcher, sizeof launcher, &ignored) == 0;
    FOUND(l, "%.*s%s", (int)strcspn(text, ","), text, started ? "" : ", but no mpirun on the PATH");
    return started ? OK : MISSING;
}

static enum state probe_plugin(struct look *l)
{
    struct err err = ERR_INIT;
    int rc = coll_plugin_check("mpi", &err);
    FOUND(l, "%.200s", rc == 0 ? "of this build" : err.text);
    return rc == 0 ? OK : rc == ERR_CONFLICT ? TOO_OLD : MISSING;
}

static enum state probe_gpu(struct look *l)
{
    int version = 0, devices = 0, (*init)(unsigned) = NULL, (*get_version)(int *) = NULL, (*count)(int *) = NULL;
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    *(void **)&init = function(library, "cuInit");
    *(void **)&get_version = function(library, "cuDriverGetVersion");
    *(void **)&count = function(library, "cuDeviceGetCount");
    if (!init || !get_version || !count)
        return FOUND(l, "no NVIDIA driver: no libcuda.so.1"), MISSING;
    int rc = init(0);
    if (rc != 0 || get_version(&version) != 0 || count(&devices) != 0 || devices == 0)
        return FOUND(l, "a driver, but no GPU that it can use (code %d)", rc), MISSING;
    FOUND(l, "%d GPU%s, driver for CUDA %d.%d", devices, devices == 1 ? "" : "s", version / 1000, version % 1000 / 10);
    return version >= 12000 ? OK : TOO_OLD;
}

static enum state probe_toolkit(struct look *l)
{
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    int version = 0, (*get_version)(int *) = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(names) && !get_version; i++)
        *(void **)&get_version = function(dlopen(names[i], RTLD_LAZY | RTLD_LOCAL), "cudaRuntimeGetVersion");
    if (!get_version || get_version(&version) != 0)
        return FOUND(l, "no libcudart"), MISSING;
    FOUND(l, "CUDA %d.%d", version / 1000, version % 1000 / 10);
    return version >= 12000 ? OK : TOO_OLD;
}

static enum state probe_nccl(struct look *l)
{
    int v = 0, (*get_version)(int *) = NULL;
    *(void **)&get_version = function(dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL), "ncclGetVersion");
    if (!get_version || get_version(&v) != 0)
        return FOUND(l, "no libnccl.so.2"), MISSING;
    FOUND(l, "NCCL %d.%d.%d", v / 10000, v % 10000 / 100, v % 100);
    return v >= 21800 ? OK : TOO_OLD;
}

static enum state probe_rdma(struct look *l)
{
    int devices = 0;
    struct rlimit r = {0, 0};
    void **(*list)(int *) = NULL, (*give_back)(void **) = NULL;
    void *library = dlopen("libibverbs.so.1", RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    *(void **)&list = function(library, "ibv_get_device_list");
    *(void **)&give_back = function(library, "ibv_free_device_list");
    if (!list || !give_back)
        return FOUND(l, "no libibverbs.so.1"), MISSING;
    void **found = list(&devices);
    if (found)
        give_back(found);
    getrlimit(RLIMIT_MEMLOCK, &r);
    if (!found || devices == 0)
        return FOUND(l, "libibverbs, but no device"), MISSING;
    if (r.rlim_cur == RLIM_INFINITY)
        return FOUND(l, "%d device%s, memory may be locked without limit", devices, devices == 1 ? "" : "s"), OK;
    FOUND(l, "%d device%s, but only %llu MiB of memory may be locked (ulimit -l)", devices, devices == 1 ? "" : "s", (unsigned long long)(r.rlim_cur >> 20));
    return TOO_SMALL;
}

/* ---- commands ---- */
static enum state probe_slurm(struct look *l)
{
    char text[400];
    unsigned year = 0, month = 0;
    struct err err = ERR_INIT;
    if (slurm_command((const char *const[]){"sbatch", "--version", NULL}, COMMAND_MS, text, sizeof text, &err) < 0) {
        if (err.code == ERR_NOT_FOUND)
            return FOUND(l, "no sbatch on the PATH"), MISSING;
        FOUND(l, "found; its version is not known: %.150s", err.text);   /* without a slurm.conf it does not even tell that */
        return OK;
    }
    text[strcspn(text, "\n")] = '\0';
    FOUND(l, "%.200s", text);
    sscanf(text, "%*[^0-9]%u.%u", &year, &month);
    return year * 100 + month >= 2205 ? OK : TOO_OLD;
}

static enum state probe_cluster(struct look *l)
{
    char text[4000];
    unsigned partitions = 0;
    struct err err = ERR_INIT;
    if (slurm_command((const char *const[]){"sinfo", "--noheader", "--format=%R", NULL}, COMMAND_MS, text, sizeof text, &err) < 0)
        return FOUND(l, "%.200s", err.code == ERR_NOT_FOUND ? "no sinfo on the PATH" : err.text), MISSING;
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        partitions++;
    FOUND(l, "its controller answers, %u partition%s", partitions, partitions == 1 ? "" : "s");
    return OK;
}

/* ---- the table ---- */
static const struct check {
    const char *name;
    enum state (*probe)(struct look *l);
    bool needed;                      /* by every run */
    const char *matters, *get;
} checks[] = {
    {"CPU", probe_cpu, false, "speed: kernels are there for AVX-512, AVX2 and plain C", "an x86-64 processor with AVX2 or newer"},
    {"cores", probe_cores, false, "two ranks or threads at a time", "a wider mask: taskset, cpuset, --cpus-per-task"},
    {"memory", probe_memory, true, "each rank holds the data set and its activations; `viaduct plan` says how much", "a machine with at least 1 GiB"},
    {"open files", probe_files, true, "every process holds sockets and logs", "ulimit -n 1024"},
    {"/dev/shm", probe_shm, true, "ranks of one host sum in shared memory", "mount -o remount,size=1G /dev/shm; in a container --shm-size=1g"},
    {"disk", probe_disk, true, "checkpoints, logs and exports lie in the run directory", "room, or another folder by --dir"},
    {"clock", probe_clock, false, "hosts of a run must agree on the time: certificates and logs", "apt-get install chrony (in a container: on its host)"},
    {"TLS", probe_tls, true, "every connection of a run", "apt-get install libssl3"},
    {"HDF5", probe_hdf5, true, "checkpoints", "apt-get install libhdf5-103-1"},
    {"Fashion-MNIST", probe_data, false, "`viaduct init`, the examples and `make demo`", "apt-get install dataset-fashion-mnist"},
    {"Open MPI", probe_mpi, false, "mpirun viaduct run", "apt-get install openmpi-bin"},
    {"MPI plugin", probe_plugin, false, "mpirun viaduct run", "apt-get install libopenmpi-dev, then make"},
    {"Slurm", probe_slurm, false, "`viaduct submit`", "apt-get install slurm-client (22.05 or newer)"},
    {"Slurm cluster", probe_cluster, false, "`viaduct submit`", "run it on a login node: there must be a slurm.conf (SLURM_CONF) whose controller is up"},
    {"GPU driver", probe_gpu, false, "GPUs, which this version does not compute on yet", "apt-get install nvidia-driver (non-free), for CUDA 12 or newer"},
    {"CUDA", probe_toolkit, false, "GPUs, which this version does not compute on yet", "apt-get install nvidia-cuda-toolkit (non-free), or NVIDIA's cuda-toolkit"},
    {"NCCL", probe_nccl, false, "GPUs, which this version does not compute on yet", "NVIDIA's repository: apt-get install libnccl2"},
    {"RDMA verbs", probe_rdma, false, "RDMA between hosts, which this version does by TCP", "apt-get install libibverbs1 ibverbs-providers; a device; memlock unlimited in limits.conf"},
    {"namespaces", probe_netns, false, "tests that play several hosts (hosts.sh, door.sh, join.sh)", "run them as root, in a container with --privileged"},
};

static void print_json(const struct machine *m, const enum state *state, const struct look *look)
{
    char text[3][700];
    json_quote(text[0], sizeof text[0], m->cpu_name);
    printf("{\"cpu\":%s,\"packages\":%u,\"numa_nodes\":%u,\"cores\":%u,\"threads\":%u,\"memory_bytes\":%llu,\"parts\":{", text[0], m->packages, m->numa_nodes, m->cores,
           m->threads, (unsigned long long)m->memory_bytes);
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++)
        printf("%s\"%s\":%s", i ? "," : "", checks[i].name, state[i] == OK ? "true" : "false");
    printf("},\"checks\":[");
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        json_quote(text[0], sizeof text[0], look[i].found);
        json_quote(text[1], sizeof text[1], checks[i].matters);
        json_quote(text[2], sizeof text[2], checks[i].get);
        printf("%s{\"name\":\"%s\",\"state\":\"%s\",\"needed\":%s,\"found\":%s,\"matters\":%s,\"get\":%s}", i ? "," : "", checks[i].name, state_names[state[i]],
               checks[i].needed ? "true" : "false", text[0], text[1], text[2]);
    }
    printf("],\"failpoints\":[");
    for (unsigned f = 0; f < FAILPOINTS; f++)
        printf("%s\"%s\"", f ? "," : "", failpoint_name((enum failpoint)f));
    printf("]}\n");
}

static void print_table(const enum state *state, const struct look *look)
{
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        printf("%-9s  %-13s  %s\n", state_names[state[i]], checks[i].name, look[i].found);
        if (state[i] != OK)
            printf("%26s%s for: %s\n%26sget it: %s\n", "", checks[i].needed ? "needed" : "only", checks[i].matters, "", checks[i].get);
    }
}

int verb_doctor(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct machine m;
    struct look look[ARRAY_LEN(checks)];
    enum state state[ARRAY_LEN(checks)];
    bool whole = true;
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0 && a.positional_count + a.override_count > 0)
        rc = args_usage(&a, &err);
    if (rc == 0)
        rc = machine_probe(&m, &err);
    if (rc < 0)
        return cli_fail("doctor", &err);
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        look[i] = (struct look){&m, ""};
        state[i] = checks[i].probe(&look[i]);
        whole = whole && (state[i] == OK || !checks[i].needed);
    }
    if (args_value(&a, "--json"))
        print_json(&m, state, look);
    else
        print_table(state, look);
    return whole ? 0 : 1;
}
