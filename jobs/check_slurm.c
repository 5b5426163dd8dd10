/* Keys of Slurm: what a site that is `via: slurm` asks for, and how the job's end is met. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "jobs/check.h"
#include "jobs/keys.h"

#define DRAIN_S 120
#define EARLY_S 60                    /* Slurm's signal before the time limit may come so much earlier */
#define TIME_MIN_S 120

static const char *const site_keys[] = {"time", "partition", "account", "slurm"};
static const char *const first_site_keys[] = {"drain", "retries"};
static const char *const retry_names[RETRIES] = {"time_limit", "preemption", "node_failure", "job_failure"};

static const struct tree *given(const struct tree *map, const char *key)
{
    const struct tree *t = map && map->kind == TREE_MAP ? tree_get(map, key) : NULL;
    return t && !tree_is_null(t) ? t : NULL;
}

static uint32_t seconds(const struct tree *t)
{
    double v;
    return t && scalar_duration(t, &v) ? (uint32_t)v : 0;
}

static const char *word(const struct tree *t) { return t && scalar_word(t) ? t->text : NULL; }

/* What is neither a key of ours nor refused is an option of sbatch. */
static void read_options(struct job_slurm *s, const struct tree *map)
{
    for (uint32_t i = 0; map && map->kind == TREE_MAP && i < map->count; i++) {
        char path[160];
        bool flag;
        const struct tree *value = map->item[i];
        snprintf(path, sizeof path, "sites[].slurm.%.100s", map->key[i]->text ? map->key[i]->text : "");
        const struct key *k = key_find(path);
        if (!k || k->refused || k->type == KEY_MAP || k->type == KEY_DURATION || tree_is_null(value) || s->option_count == SLURM_OPTIONS_MAX)
            continue;
        bool is_flag = k->type == KEY_BOOL && scalar_bool(value, &flag);
        if ((is_flag && !flag) || (!is_flag && !scalar_word(value)))
            continue;
        s->option[s->option_count].name = key_last(k);
        s->option[s->option_count++].value = is_flag ? NULL : value->text;
    }
}

static void read_retries(struct job_slurm *s, const struct tree *map)
{
    for (unsigned i = 0; i < RETRIES; i++) {
        char path[80];
        double v;
        snprintf(path, sizeof path, "sites[].slurm.retries.%s", retry_names[i]);
        const struct key *k = key_find(path);
        const struct tree *t = given(map, retry_names[i]);
        s->retries[i] = (uint32_t)strtoul(k->fallback, NULL, 10);
        if (t && scalar_number(t, &v) && v >= k->min && v <= k->max)
            s->retries[i] = (uint32_t)v;
    }
}

static void check_times(struct job *job, const struct job_slurm *s, const struct tree *site, uint32_t index)
{
    const struct tree *time = given(site, "time"), *drain = given(given(site, "slurm"), "drain");
    double v;
    if (time && scalar_duration(time, &v) && v < TIME_MIN_S)
        problem_at(job, time, job_text(job, "sites[%u].time", index), NULL, "%.0f s is too small; the least is %u minutes", v, TIME_MIN_S / 60);
    else if (drain && s->time_s && seconds(drain) + EARLY_S > s->time_s)
        problem_at(job, drain, job_text(job, "sites[%u].slurm.drain", index), NULL,
                   "saving %u s before the time limit, which Slurm may signal a minute early, belongs to a limit of at least %u s, and time is %u s (%s)", seconds(drain),
                   seconds(drain) + EARLY_S, s->time_s, line_of(job, time));
}

static void read_site(struct job *job, const struct tree *site, uint32_t index, const struct tree **first)
{
    struct job_slurm *s = &job->spec.sites[index].slurm;
    const struct tree *map = given(site, "slurm");
    s->time_s = seconds(given(site, "time"));
    s->partition = word(given(site, "partition"));
    s->account = word(given(site, "account"));
    read_options(s, map);
    read_retries(s, given(map, "retries"));
    s->drain_s = seconds(given(map, "drain"));
    if (!s->drain_s)
        s->drain_s = s->time_s ? MIN((uint32_t)DRAIN_S, s->time_s / 2) : DRAIN_S;
    check_times(job, s, site, index);
    for (unsigned k = 0; k < ARRAY_LEN(site_keys); k++)
        s->given = s->given || given(site, site_keys[k]);
    if (job->spec.sites[index].via == VIA_JOIN)   /* a job of its own, on another cluster */
        return;
    for (unsigned i = 0; *first && i < ARRAY_LEN(first_site_keys); i++)
        if (given(map, first_site_keys[i]))
            problem_at(job, given(map, first_site_keys[i]), job_text(job, "sites[%u].slurm.%s", index, first_site_keys[i]), NULL,
                       "this key belongs to the first Slurm site (%s), whose batch script starts the run", line_of(job, *first));
    if (!*first)
        *first = site;
}

void read_slurm(struct job *job, const struct tree *list)
{
    const struct tree *first = NULL;
    for (uint32_t i = 0; list && list->kind == TREE_LIST && i < job->spec.site_count; i++) {
        const struct tree *site = list->item[i];
        if (job->spec.sites[i].via == VIA_SLURM || job->spec.sites[i].via == VIA_JOIN) {
            read_site(job, site, i, &first);
            continue;
        }
        for (unsigned k = 0; k < ARRAY_LEN(site_keys); k++)
            if (given(site, site_keys[k]))
                problem_at(job, given(site, site_keys[k]), job_text(job, "sites[%u].%s", i, site_keys[k]), NULL,
                           "this key belongs to sites that are `via: slurm` or `via: join`, and this one is not (%s)", line_of(job, given(site, "via")));
    }
}
