/* Transports that live in a shared object: found beside the program, or beside libviaduct.so when that is what runs here; refused unless they
 * were built from the same sources. */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/transport.h"

/* From the folder of the program or the library: a build tree; PREFIX/bin or PREFIX/lib; a folder of libraries below PREFIX/lib. */
static const char *const places[] = {"", "/plugins", "/build/release/plugins", "/../lib/viaduct", "/../viaduct"};

/* The folder that this code lies in: the library's own in a trainer of somebody else's, which may lie anywhere. */
static int own_folder(char *out, size_t size, struct err *err)
{
    struct link_map *map = NULL;
    Dl_info info;
    char *slash;
    if (dladdr1(places, &info, (void **)&map, RTLD_DL_LINKMAP) && map && map->l_name[0] == '/') {
        snprintf(out, size, "%s", map->l_name);
    } else {
        ssize_t n = readlink("/proc/self/exe", out, size - 1);
        out[n < 0 ? 0 : n] = '\0';
    }
    if (!(slash = strrchr(out, '/')))
        return err_set(err, ERR_FAILED, "cannot find out where this program lies; name the plugins' folder in VIADUCT_PLUGINS");
    *slash = '\0';
    return 0;
}

static int find(const char *transport, char *path, size_t size, struct err *err)
{
    char program[2048];
    const char *folder = getenv("VIADUCT_PLUGINS");
    if (folder) {
        snprintf(path, size, "%s/viaduct-%s.so", folder, transport);
        return access(path, R_OK) == 0 ? 0 : err_set(err, ERR_NOT_FOUND, "no %s: VIADUCT_PLUGINS names a folder without it", path);
    }
    TRY(own_folder(program, sizeof program, err));
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, size, "%s%s/viaduct-%s.so", program, places[i], transport);
        if (access(path, R_OK) == 0)
            return 0;
    }
    return err_set(err, ERR_NOT_FOUND, "transport '%s' needs viaduct-%s.so, and there is none in or near %s; `make` builds it where Open MPI's development files are "
                                       "(apt-get install libopenmpi-dev)", transport, transport, program);
}

int coll_plugin_open(const char *transport, const struct coll_ops **out, struct err *err)
{
    static const struct coll_plugin_abi mine = COLL_PLUGIN_ABI;
    char path[4096];
    if (strcmp(transport, "mpi") != 0)
        return err_set(err, ERR_USAGE, "there is no transport '%s' inside a site; there are shm, tcp and mpi", transport);
    TRY(find(transport, path, sizeof path, err));
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);   /* its libraries run threads and exit handlers: it stays */
    if (!handle)
        return err_set(err, ERR_NOT_FOUND, "cannot load %s: %s", path, dlerror());
    const struct coll_plugin *p = dlsym(handle, COLL_PLUGIN_SYMBOL);
    if (!p)
        return err_set(err, ERR_CONFLICT, "%s is no plugin of this program: it has no %s", path, COLL_PLUGIN_SYMBOL);
    if (memcmp(&p->abi, &mine, sizeof mine) != 0)
        return err_set(err, ERR_CONFLICT, "%s is of build %.47s (interface %u, %u bytes), this program of build %.47s (interface %u, %u bytes); build both with one `make`",
                       path, p->abi.build_id, p->abi.version, p->abi.size, mine.build_id, mine.version, mine.size);
    *out = p->ops;
    return 0;
}

int coll_plugin_check(const char *transport, struct err *err)
{
    const struct coll_ops *ops;
    return coll_plugin_open(transport, &ops, err);
}
