#include "agent/segments.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "collectives/collectives.h"
#include "jobs/jobs.h"

/* What a segment's name says after the site: a launch, a dot and which of its openings, and "-h" and the number of a host that is not the site's first. */
static bool parse(const char *rest, uint32_t *incarnation)
{
    char *end;
    unsigned long n = strtoul(rest, &end, 10);
    bool named = end != rest && *end == '.';
    if (named) {
        rest = end + 1;
        strtoul(rest, &end, 10);
        named = end != rest;
    }
    *incarnation = (uint32_t)n;
    if (named && strncmp(end, "-h", 2) == 0) {
        rest = end + 2;
        strtoul(rest, &end, 10);
        named = end != rest;
    }
    return named && *end == '\0';
}

/* The segments of the launches that `lives` does not claim; of all hosts that share this memory. */
void segments_sweep(const char *job, const char *site, bool (*lives)(void *arg, uint32_t incarnation), void *arg)
{
    char prefix[160], name[sizeof ((struct dirent *)0)->d_name + 1];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "viaduct-%s-%s-", job, site);
    DIR *d = opendir("/dev/shm");
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        uint32_t incarnation;
        if (length >= sizeof prefix || strncmp(e->d_name, prefix, length) != 0 || !parse(e->d_name + length, &incarnation) || lives(arg, incarnation))
            continue;
        snprintf(name, sizeof name, "/%s", e->d_name);
        coll_abort_segment(name);
    }
    closedir(d);
}

static bool other_launch(void *arg, uint32_t incarnation) { return incarnation != *(uint32_t *)arg; }

void segments_end_gang(const char *job, const char *site, uint32_t incarnation) { segments_sweep(job, site, other_launch, &incarnation); }

void segments_end_run(const char *job, const char *site)
{
    char name[160];
    for (unsigned r = 0; r < RANKS_MAX; r++) {
        snprintf(name, sizeof name, "/viaduct-%s-%s-ram-%u", job, site, r);
        shm_unlink(name);
    }
}
