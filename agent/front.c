#include "agent/front.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define RETRY_MS 200

struct front {
    struct loop *loop;
    struct log *log;
    char address[160], passing[108];
    struct front_door *door;
    struct timer *retry;
};

static int try_open(struct front *f, struct err *err) { return front_door_open(f->loop, f->log, f->address, f->passing, &f->door, err); }

static void stop_trying(struct front *f)
{
    timer_stop(f->retry);
    f->retry = NULL;
}

static void on_retry(void *arg)
{
    struct front *f = arg;
    struct err err = ERR_INIT;
    if (try_open(f, &err) < 0)
        return;
    log_info(f->log, "the front door stands at %s again", f->address);
    stop_trying(f);
}

/* Everybody in the run has the address of the door before us: no other will do. Passed connections go on meanwhile. */
static int open_again(struct front *f, struct err *err)
{
    int rc = try_open(f, err);
    if (rc == 0)
        log_info(f->log, "the front door stands at %s again", f->address);
    if (rc != ERR_CONFLICT)
        return rc;
    log_warn(f->log, "no new connections until the front door's address is free again: %s", err->text);
    f->retry = timer_start(f->loop, RETRY_MS, RETRY_MS, on_retry, f);
    return 0;
}

static int open_first(struct front *f, const struct rundir *run, const char *site, struct front_place place, struct err *err)
{
    const char *host_port = place.host_port;
    char shown[160];
    if (snprintf(f->address, sizeof f->address, "tls:%s", host_port) >= (int)sizeof f->address)
        return err_set(err, ERR_USAGE, "the front door's address %s is too long", host_port);
    if (!place.shown && (strncmp(host_port, "0.0.0.0:", 8) == 0 || strncmp(host_port, "[::]:", 5) == 0))
        return err_set(err, ERR_USAGE, "front door of site '%s': %s names no host that others could dial; write the host's name or address", site, host_port);
    if (try_open(f, err) < 0)
        return err_wrap(err, "front door of site '%s'", site);
    snprintf(shown, sizeof shown, place.shown ? "tls:%.150s" : "%.155s", place.shown ? place.shown : front_door_address(f->door));
    log_info(f->log, "the front door stands at %s%s%s", front_door_address(f->door), place.shown ? ", others see it at " : "", place.shown ? shown : "");
    return rundir_set_door(run, site, shown, front_door_address(f->door), err);
}

int front_open(struct loop *l, struct log *log, const struct rundir *run, const char *site, unsigned site_index, struct front_place place, struct front **out,
               struct err *err)
{
    struct err none = ERR_INIT;
    *out = NULL;
    if (!place.host_port || !*place.host_port)
        return 0;
    struct front *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(err, ERR_NO_MEMORY, "no memory for the front door");
    f->loop = l;
    f->log = log;
    rundir_door_socket(run, site_index, f->passing);
    int rc = rundir_door_stands(run, site, f->address, &none);
    if (rc == 0)
        rc = open_again(f, err);
    else if (rc == ERR_NOT_FOUND)
        rc = open_first(f, run, site, place, err);
    else
        *err = none;
    *out = f;
    if (rc < 0) {
        front_close(f);
        *out = NULL;
    }
    return rc;
}

void front_close(struct front *f)
{
    if (!f)
        return;
    stop_trying(f);
    front_door_close(f->door);
    free(f);
}
