#include "agent/segments.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "collectives/collectives.h"
#include "jobs/jobs.h"

void segments_end_gang(const char *job, const char *site, uint32_t incarnation)
{
    char name[160];
    snprintf(name, sizeof name, "/viaduct-%s-%s-%u", job, site, incarnation);
    coll_abort_segment(name);
}

void segments_sweep(const char *job, const char *site, bool (*lives)(void *arg, uint32_t incarnation), void *arg)
{
    char prefix[160];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "viaduct-%s-%s-", job, site);
    DIR *d = opendir("/dev/shm");
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char *end;
        if (length >= sizeof prefix || strncmp(e->d_name, prefix, length) != 0)
            continue;
        unsigned long incarnation = strtoul(e->d_name + length, &end, 10);
        if (end != e->d_name + length && *end == '\0' && !lives(arg, (uint32_t)incarnation))
            segments_end_gang(job, site, (uint32_t)incarnation);
    }
    closedir(d);
}

void segments_end_run(const char *job, const char *site)
{
    char name[160];
    for (unsigned r = 0; r < RANKS_MAX; r++) {
        snprintf(name, sizeof name, "/viaduct-%s-%s-ram-%u", job, site, r);
        shm_unlink(name);
    }
}
