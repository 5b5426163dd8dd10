#include "agent/segments.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "collectives/collectives.h"
#include "jobs/jobs.h"

/* What a segment's name says after the site, by coll_segment_name: INCARNATION-TURN, and "-h" and the number of a host that is not the site's first. A gang
 * has a segment for each time that its lanes changed; hosts that share this memory end together. */
static bool parse(const char *rest, uint32_t *incarnation, int *on)
{
    static const char digits[] = "0123456789";
    size_t launch = strspn(rest, digits), turn = rest[launch] == '-' ? strspn(rest + launch + 1, digits) : 0;
    const char *end = rest + launch + 1 + turn;
    *incarnation = (uint32_t)strtoul(rest, NULL, 10);
    if (!launch || !turn)
        return false;
    size_t host = strncmp(end, "-h", 2) == 0 ? strspn(end + 2, digits) : 0;
    *on = host ? (int)strtoul(end + 2, NULL, 10) : 0;
    return end[host ? 2 + host : 0] == '\0';
}

static void for_each(const char *job, const char *site, int host, bool (*ends)(void *arg, uint32_t incarnation), void *arg)
{
    char prefix[160], name[300];
    size_t length = (size_t)snprintf(prefix, sizeof prefix, "viaduct-%s-%s-", job, site);
    DIR *d = opendir("/dev/shm");
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        uint32_t incarnation;
        int on;
        bool ours = length < sizeof prefix && strncmp(e->d_name, prefix, length) == 0 && parse(e->d_name + length, &incarnation, &on) && (host < 0 || on == host);
        if (!ours || !ends(arg, incarnation))
            continue;
        snprintf(name, sizeof name, "/%s", e->d_name);
        coll_abort_segment(name);
    }
    closedir(d);
}

static bool is_it(void *arg, uint32_t incarnation) { return *(const uint32_t *)arg == incarnation; }

void segments_end_gang(const char *job, const char *site, int host, uint32_t incarnation) { for_each(job, site, host, is_it, &incarnation); }

struct sweep { bool (*lives)(void *arg, uint32_t incarnation); void *arg; };

static bool is_dead(void *arg, uint32_t incarnation)
{
    const struct sweep *s = arg;
    return !s->lives(s->arg, incarnation);
}

void segments_sweep(const char *job, const char *site, int host, bool (*lives)(void *arg, uint32_t incarnation), void *arg)
{
    struct sweep s = {lives, arg};
    for_each(job, site, host, is_dead, &s);
}

void segments_end_run(const char *job, const char *site, unsigned first, unsigned end)
{
    char name[160];
    for (unsigned r = first; r < end; r++) {
        snprintf(name, sizeof name, "/viaduct-%s-%s-ram-%u", job, site, r);
        shm_unlink(name);
    }
}
