/* `viaduct logs`: the logs of all processes of a run as one, by time. Each file is in order by itself, so the oldest of their next lines comes next. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

#define SOURCES_MAX 600
#define LOOK_AGAIN_MS 250
#define LEVELS 5

struct source {
    char name[256];
    FILE *file;
    char *line;                       /* the next one, when `entry` is set */
    size_t room;
    json_t *entry;
    const char *time;                 /* of entry */
};

struct reading {
    char dir[600];
    struct source source[SOURCES_MAX];
    unsigned count, level;            /* level: most that is shown, by index */
    const char *who;
    bool json, follow, colour;
    unsigned long long unreadable;
};

static const char *const level_names[LEVELS] = {"error", "warn", "info", "debug", "trace"};

static int level_index(const char *name)
{
    for (int i = 0; name && i < LEVELS; i++)
        if (strcmp(level_names[i], name) == 0)
            return i;
    return -1;
}

static const char *text_at(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* "worker onprem/0" is itself, one of "worker", of "onprem" and of "onprem/0". */
static bool is_of(const char *service, const char *who)
{
    size_t n = strlen(who);
    const char *place = strchr(service, ' ');
    bool role = strncmp(service, who, n) == 0 && (service[n] == ' ' || service[n] == '\0');
    bool site = place && strncmp(place + 1, who, n) == 0 && (place[1 + n] == '/' || place[1 + n] == '\0');
    return role || site;
}

/* ---- reading ---- */
static bool is_shown(const struct reading *r, const json_t *e)
{
    int level = level_index(text_at(e, "log.level"));
    return (level < 0 || level <= (int)r->level) && (!r->who || is_of(text_at(e, "service.name"), r->who));
}

/* A line that is still being written is left for the next look. */
static void next_line(struct reading *r, struct source *s)
{
    while (!s->entry) {
        long at = ftell(s->file);
        ssize_t n = getline(&s->line, &s->room, s->file);
        if (n <= 0 || (s->line[n - 1] != '\n' && r->follow)) {
            clearerr(s->file);
            fseek(s->file, at, SEEK_SET);
            return;
        }
        s->line[n - (s->line[n - 1] == '\n')] = '\0';
        json_t *e = json_loads(s->line, 0, NULL);
        if (!json_is_object(e))
            r->unreadable++;
        if (json_is_object(e) && is_shown(r, e)) {
            s->entry = e;
            s->time = text_at(e, "@timestamp");
        } else {
            json_decref(e);
        }
    }
}

static bool is_open(const struct reading *r, const char *name)
{
    for (unsigned i = 0; i < r->count; i++)
        if (strcmp(r->source[i].name, name) == 0)
            return true;
    return false;
}

static int open_new(struct reading *r, struct err *err)
{
    DIR *d = opendir(r->dir);
    if (!d)
        return err_errno(err, errno, "cannot read %s", r->dir);
    for (struct dirent *e; (e = readdir(d)) && r->count < SOURCES_MAX;) {
        char path[900];
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".jsonl") != 0 || is_open(r, e->d_name))
            continue;
        snprintf(path, sizeof path, "%s/%s", r->dir, e->d_name);
        struct source *s = &r->source[r->count];
        *s = (struct source){.file = fopen(path, "re")};
        snprintf(s->name, sizeof s->name, "%s", e->d_name);
        if (s->file)
            r->count++;
    }
    closedir(d);
    return 0;
}

/* ---- showing ---- */
static void show(const struct reading *r, struct source *s)
{
    static const char *const colours[LEVELS] = {"\033[31m", "\033[33m", "", "\033[2m", "\033[2m"};
    int level = level_index(text_at(s->entry, "log.level"));
    const char *on = r->colour && level >= 0 ? colours[level] : "", *off = *on ? "\033[0m" : "";
    if (r->json) {
        puts(s->line);
    } else {
        char *message = strdup(text_at(s->entry, "message")), who[100];
        CHECK(message != NULL);
        snprintf(who, sizeof who, "%s", text_at(s->entry, "service.name"));
        printf("%.10s %.12s  %s%-5s%s  %-20s  %s%s%s\n", s->time, strlen(s->time) > 11 ? s->time + 11 : "", on, level < 0 ? "?" : level_names[level], off,
               text_plain(who), on, text_plain(message), off);
        free(message);
    }
    json_decref(s->entry);
    s->entry = NULL;
}

static struct source *oldest(struct reading *r)
{
    struct source *first = NULL;
    for (unsigned i = 0; i < r->count; i++) {
        next_line(r, &r->source[i]);
        if (r->source[i].entry && (!first || strcmp(r->source[i].time, first->time) < 0))
            first = &r->source[i];
    }
    return first;
}

static int read_all(struct reading *r, struct err *err)
{
    for (;;) {
        TRY(open_new(r, err));
        for (struct source *s; (s = oldest(r)) && !ferror(stdout);)
            show(r, s);
        struct pollfd reader = {.fd = STDOUT_FILENO};
        if (fflush(stdout) != 0 || !r->follow || poll(&reader, 1, LOOK_AGAIN_MS) == 1)
            return 0;                 /* the reader of a pipe has gone */
    }
}

static void close_all(struct reading *r)
{
    for (unsigned i = 0; i < r->count; i++) {
        fclose(r->source[i].file);
        free(r->source[i].line);
        json_decref(r->source[i].entry);
    }
}


static int parse(struct reading *r, const struct args *a, struct rundir *run, char who[200], struct err *err)
{
    const char *level = args_value(a, "--level");
    int index = level ? level_index(level) : LOG_DEBUG;
    r->who = args_value(a, "--who");
    if (a->positional_count == 2 && r->who) {   /* --who worker onprem/0, as names stand in the logs */
        bool before = strchr(a->positional[0], '/') && access(a->positional[0], F_OK) < 0;
        snprintf(who, 200, "%s %s", r->who, a->positional[before ? 0 : 1]);
        r->who = who;
        TRY(rundir_open(run, a->positional[before ? 1 : 0], err));
    } else if (a->positional_count == 1) {
        TRY(rundir_open(run, a->positional[0], err));
    } else {
        return err_set(err, ERR_USAGE, "one run directory is needed: viaduct logs RUN [-f] [--who ROLE SITE/I] [--level L] [--json]");
    }
    if (index < 0)
        return err_set(err, ERR_USAGE, "--level %s: one of error, warn, info, debug, trace", level);
    r->level = (unsigned)index;
    r->json = args_value(a, "--json") != NULL;
    r->follow = args_value(a, "--follow") != NULL;
    r->colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    snprintf(r->dir, sizeof r->dir, "%s/log", run->path);
    return 0;
}

int verb_logs(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    char who[200];
    struct reading *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0)
        rc = parse(r, &a, &run, who, &err);
    if (rc == 0)
        rc = read_all(r, &err);
    if (rc == 0 && r->unreadable)
        fprintf(stderr, "viaduct logs: %llu lines were cut or damaged and are left out\n", r->unreadable);
    close_all(r);
    free(r);
    return rc < 0 ? cli_fail("logs", &err) : 0;
}
