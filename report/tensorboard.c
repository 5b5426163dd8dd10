/* RUN/tb: scalars as TensorBoard reads them. An events file is a row of records: length (u64), masked CRC32C of it, a protocol buffer `Event`, masked CRC32C
 * of that (TFRecord framing). Fields used: Event{1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log}, Summary{1 value},
 * Value{1 tag, 2 simple_value}, SessionLog{1 status}.
 *
 * A rollback makes steps void that were written. So each start and each rollback begins a new file, written from what the log says, and removes the older ones:
 * the folder never holds a step twice. The START mark makes a TensorBoard that watches drop what it had read of the steps that follow. */
#include "report/report.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define SESSION_START 1

struct tb { FILE *file; };

static void put_record(FILE *f, const struct pb *event)
{
    uint8_t head[12], tail[4];
    struct writer w = writer_over(head, sizeof head), end = writer_over(tail, sizeof tail);
    put_u64(&w, event->size);
    put_u32(&w, crc32c_masked(head, 8));
    put_u32(&end, crc32c_masked(event->data, event->size));
    fwrite(head, 1, sizeof head, f);
    fwrite(event->data, 1, event->size, f);
    fwrite(tail, 1, sizeof tail, f);
}

static double wall_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put_event(struct tb *t, double wall, uint64_t step, uint32_t field, struct pb *inner)
{
    struct pb event = {0};
    pb_double(&event, 1, wall);
    if (step)
        pb_uint(&event, 2, step);
    pb_message(&event, field, inner);
    if (!event.failed)
        put_record(t->file, &event);
    pb_free(&event);
}

static void begin_file(struct tb *t, uint64_t first_step)
{
    struct pb version = {0}, session = {0};
    pb_double(&version, 1, wall_now());
    pb_string(&version, 3, "brain.Event:2");
    if (!version.failed)
        put_record(t->file, &version);
    pb_free(&version);
    pb_uint(&session, 1, SESSION_START);
    put_event(t, wall_now(), first_step, 7, &session);
}

static int remove_others(const char *dir, const char *keep, struct err *err)
{
    char path[1000];
    DIR *d = opendir(dir);
    int rc = d ? 0 : err_errno(err, errno, "cannot read %s", dir);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        bool ours = strncmp(e->d_name, "events.out.tfevents.", 20) == 0 && strstr(e->d_name, ".viaduct");
        if (!ours || strcmp(e->d_name, keep) == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (unlink(path) < 0 && errno != ENOENT)
            rc = err_errno(err, errno, "cannot remove %s", path);
    }
    if (d)
        closedir(d);
    return rc;
}

/* Later ones sort behind earlier ones: that is how a watching TensorBoard finds them. */
static void name_file(char out[80])
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(out, 80, "events.out.tfevents.%010lld.%06ld.viaduct", (long long)t.tv_sec, t.tv_nsec / 1000);
}

int tb_open(const char *dir, uint64_t first_step, struct tb **out, struct err *err)
{
    char path[900], name[80];
    TRY(fs_mkdirs(&fs_real, dir, err));
    name_file(name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wxe");
    if (!f)
        return err_errno(err, errno, "cannot write %s", path);
    struct tb *t = calloc(1, sizeof *t);
    CHECK(t != NULL);
    t->file = f;
    begin_file(t, first_step);
    int rc = remove_others(dir, name, err);
    if (rc < 0) {
        tb_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tb_close(struct tb *t)
{
    if (!t)
        return;
    fclose(t->file);
    free(t);
}

static void add_value(struct pb *summary, const char *tag, double v)
{
    struct pb value = {0};
    if (!isfinite(v))
        return;
    pb_string(&value, 1, tag);
    pb_float(&value, 2, (float)v);
    pb_message(summary, 1, &value);
}

void tb_step(struct tb *t, const struct metric *m, double wall, double samples_per_second)
{
    struct pb summary = {0};
    char tag[64];
    add_value(&summary, "train/loss", m->loss);
    add_value(&summary, "train/accuracy", m->accuracy);
    add_value(&summary, "train/learning_rate", m->lr);
    add_value(&summary, "speed/samples_per_second", samples_per_second);
    for (unsigned k = 0; k < METRIC_PARTS; k++) {
        snprintf(tag, sizeof tag, "step_seconds/%s", metric_part_name[k]);
        add_value(&summary, tag, m->part[k]);
    }
    put_event(t, wall, m->step, 5, &summary);
}

bool tb_flush(struct tb *t) { return fflush(t->file) == 0; }
