/* report.json, whole at every moment; the book of restarts; lines of events.jsonl. */
#include "report/report.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#ifdef VIADUCT_COMMIT
#define COMMIT json_string(VIADUCT_COMMIT)
#else
#define COMMIT json_null()
#endif

static json_t *number_or_null(double v) { return isfinite(v) ? json_real(v) : json_null(); }

/* Last words of other programs need not be UTF-8. */
static json_t *text_of(const char *s)
{
    json_t *v = json_string(s);
    char *plain = v ? NULL : strdup(s);
    for (char *p = plain; p && *p; p++)
        if (!isascii((unsigned char)*p))
            *p = '?';
    if (plain)
        v = json_string(plain);
    free(plain);
    return v;
}

static json_t *text_or_null(const char *s) { return s && *s ? text_of(s) : json_null(); }

/* ---- restarts ---- */
#define OPEN_MAX 256

struct restarts {
    json_t *list;
    double wall_before;
    bool wan_known;
    uint64_t wan_before;
    unsigned open_count;
    struct { json_t *entry; uint64_t since_ms; } open[OPEN_MAX];
};

struct restarts *restarts_open(const char *run_dir, bool keep_old)
{
    char path[700];
    struct restarts *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    json_t *old = keep_old ? json_load_file(path, 0, NULL) : NULL;
    json_t *list = json_object_get(old, "restarts");
    b->list = json_is_array(list) ? json_incref(list) : json_array();
    b->wall_before = json_number_value(json_object_get(old, "wall_seconds"));
    const json_t *wan = json_object_get(json_object_get(old, "wan"), "bytes_sent");
    b->wan_known = json_is_integer(wan) && json_integer_value(wan) >= 0;
    b->wan_before = b->wan_known ? (uint64_t)json_integer_value(wan) : 0;
    json_decref(old);
    return b;
}

void restarts_close(struct restarts *b)
{
    if (!b)
        return;
    json_decref(b->list);
    free(b);
}

double restarts_wall_before(const struct restarts *b) { return b->wall_before; }

bool restarts_wan_before(const struct restarts *b, uint64_t *bytes)
{
    *bytes = b->wan_before;
    return b->wan_known;
}

double restarts_count(const struct restarts *b, const char *role)
{
    size_t length = strlen(role), i;
    json_t *e;
    double n = 0;
    json_array_foreach(b->list, i, e) {
        const char *who = json_string_value(json_object_get(e, "who"));
        n += who && strncmp(who, role, length) == 0 && (who[length] == ' ' || !who[length]);
    }
    return n;
}

void restarts_died(struct restarts *b, const char *who, uint64_t at_step, const char *cause, uint64_t now_ms)
{
    json_t *e = json_pack("{s:o, s:I, s:o, s:i, s:n}", "who", text_of(who), "at_step", (json_int_t)at_step, "cause", text_of(cause), "lost_steps", 0, "seconds");
    if (json_array_append_new(b->list, e) < 0 || b->open_count == OPEN_MAX)
        return;
    b->open[b->open_count].entry = e;
    b->open[b->open_count++].since_ms = now_ms;
}

void restarts_back(struct restarts *b, const char *who, uint64_t now_ms)
{
    for (unsigned i = 0; i < b->open_count;) {
        const char *name = json_string_value(json_object_get(b->open[i].entry, "who"));
        if (!name || strcmp(name, who) != 0) {
            i++;
            continue;
        }
        json_object_set_new(b->open[i].entry, "seconds", json_real((double)(now_ms - b->open[i].since_ms) / 1e3));
        b->open[i] = b->open[--b->open_count];
    }
}

void restarts_lost(struct restarts *b, uint64_t steps)
{
    size_t n = json_array_size(b->list);
    if (n)
        json_object_set_new(json_array_get(b->list, n - 1), "lost_steps", json_integer((json_int_t)steps));
}

void restarts_unmended(struct restarts *b, uint64_t steps)
{
    const json_t *newest = json_array_get(b->list, json_array_size(b->list) - 1);
    for (unsigned i = 0; newest && i < b->open_count; i++)
        if (b->open[i].entry == newest)
            json_object_set_new(b->open[i].entry, "lost_steps", json_integer((json_int_t)steps));
}

/* ---- report.json ---- */
static json_t *world_of(const struct report *r)
{
    json_t *sites = json_array();
    unsigned ranks = 0;
    for (unsigned i = 0; i < r->site_count; i++) {
        json_array_append_new(sites, json_pack("{s:s, s:i}", "name", r->site[i].name, "ranks", (int)r->site[i].ranks));
        ranks += r->site[i].ranks;
    }
    return json_pack("{s:o, s:i, s:i}", "sites", sites, "ranks", (int)ranks, "lanes", (int)r->lanes);
}

static json_t *checkpoint_of(const struct report *r)
{
    if (!r->have_checkpoint)
        return json_null();
    json_t *sites = json_array();
    for (unsigned i = 0; i < r->site_count; i++)
        if (r->checkpoint_sites >> i & 1)
            json_array_append_new(sites, json_string(r->site[i].name));
    return json_pack("{s:s, s:I, s:o}", "path", r->checkpoint_path, "step", (json_int_t)r->checkpoint_step, "verified_sites", sites);
}

static json_t *from_result(json_t *result, const char *key)
{
    json_t *v = json_object_get(result, key);
    return v ? json_incref(v) : json_null();
}

static json_t *ledger_of(const struct report *r)
{
    if (!r->have_ledger)
        return json_null();
    return json_pack("{s:I, s:I, s:I}", "passes", (json_int_t)r->passes, "missing", (json_int_t)r->missing, "duplicated", (json_int_t)r->duplicated);
}

static json_t *lineage_of(const struct report *r)
{
    return json_pack("{s:o, s:o, s:o, s:{s:s}}", "commit", COMMIT, "spec_sha256", text_or_null(r->spec_sha256), "data_sha256", text_or_null(r->data_sha256),
                     "versions", "viaduct", VIADUCT_VERSION);
}

static json_t *final_of(const struct report *r, json_t *result)
{
    return json_pack("{s:o, s:o, s:o}", "train_loss", number_or_null(r->train_loss), "eval_loss", from_result(result, "eval_loss"),
                     "eval_accuracy", from_result(result, "eval_accuracy"));
}

static json_t *export_of(json_t *result)
{
    json_t *e = json_object_get(result, "export");
    return json_is_object(e) ? json_incref(e) : json_pack("{s:n, s:n, s:n}", "float", "quantized", "gate");
}

static json_t *wan_of(const struct report *r)
{
    json_t *bytes = r->have_wan ? json_integer((json_int_t)r->wan_bytes_sent) : json_null();
    return json_pack("{s:o, s:I}", "bytes_sent", bytes, "rounds", (json_int_t)r->wan_rounds);
}

/* code: NULL when it is not known, as of a coordinator that was killed. */
static void set_error(json_t *all, const char *error, const char *code)
{
    json_object_set_new(all, "error", text_of(error));
    json_object_set_new(all, "error_code", text_or_null(code));
}

static json_t *whole(const struct report *r, const struct restarts *b, json_t *result)
{
    json_t *planned = r->planned_steps ? json_integer((json_int_t)r->planned_steps) : json_null();
    json_t *all = json_pack("{s:o, s:o, s:I, s:o, s:o, s:I, s:o, s:o}", "name", text_or_null(r->name), "status", text_or_null(r->status), "steps", (json_int_t)r->steps,
                            "planned_steps", planned, "epochs", number_or_null(r->epochs), "samples", (json_int_t)r->samples, "wall_seconds", number_or_null(r->wall_seconds),
                            "samples_per_second", number_or_null(r->samples_per_second));
    if (r->error)
        set_error(all, r->error, r->error_code);
    json_object_set_new(all, "world", world_of(r));
    json_object_set_new(all, "final", final_of(r, result));
    json_object_set_new(all, "weights_sha256", from_result(result, "weights_sha256"));
    json_object_set_new(all, "state_sha256", from_result(result, "state_sha256"));
    json_object_set_new(all, "ledger", ledger_of(r));
    json_object_set(all, "restarts", b->list);
    json_object_set_new(all, "wan", wan_of(r));
    json_object_set_new(all, "checkpoint", checkpoint_of(r));
    json_object_set_new(all, "export", export_of(result));
    json_object_set_new(all, "lineage", lineage_of(r));
    return all;
}

/* Takes `all`. */
static int write_whole(const char *run_dir, json_t *all, struct err *err)
{
    char path[700], *dump = all ? json_dumps(all, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL, *text = NULL;
    size_t size = 0;
    json_decref(all);
    FILE *f = dump ? open_memstream(&text, &size) : NULL;
    if (f)
        json_print_short(f, dump);
    free(dump);
    if (!f || fclose(f) != 0) {
        free(text);
        return err_set(err, ERR_NO_MEMORY, "no memory for the report");
    }
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    int rc = fs_publish_file(&fs_real, path, text, size, err);
    free(text);
    return rc;
}

static json_t *result_of(const char *run_dir)
{
    char path[700];
    snprintf(path, sizeof path, "%s/export/result.json", run_dir);
    return json_load_file(path, 0, NULL);
}

int report_write(const char *run_dir, const struct report *r, const struct restarts *b, struct err *err)
{
    json_t *result = result_of(run_dir), *all = whole(r, b, result);
    json_decref(result);
    return write_whole(run_dir, all, err);
}

int report_close(const char *run_dir, const char *name, const char *status, const char *error, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    json_t *all = json_load_file(path, 0, NULL);
    const char *told = json_string_value(json_object_get(all, "status"));
    if (told && strcmp(told, "running") != 0) {
        json_decref(all);
        return 0;
    }
    if (!told) {
        struct report none = {.name = name, .epochs = NAN, .wall_seconds = NAN, .samples_per_second = NAN, .train_loss = NAN};
        struct restarts *b = restarts_open(run_dir, false);
        json_decref(all);
        all = whole(&none, b, NULL);
        restarts_close(b);
    }
    json_object_set_new(all, "status", text_of(status));
    if (error)
        set_error(all, error, NULL);
    return write_whole(run_dir, all, err);
}

int report_renew(const char *run_dir, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    json_t *all = json_load_file(path, 0, NULL), *result = result_of(run_dir);
    if (!json_is_object(all) || !json_is_object(result)) {
        json_decref(all);
        json_decref(result);
        return err_set(err, ERR_CORRUPT, "%s, or export/result.json beside it, cannot be read: a resume writes both anew", path);
    }
    json_t *final = json_object_get(all, "final");
    json_object_set_new(final, "eval_loss", from_result(result, "eval_loss"));
    json_object_set_new(final, "eval_accuracy", from_result(result, "eval_accuracy"));
    json_object_set_new(all, "weights_sha256", from_result(result, "weights_sha256"));
    json_object_set_new(all, "state_sha256", from_result(result, "state_sha256"));
    json_object_set_new(all, "export", export_of(result));
    json_decref(result);
    return write_whole(run_dir, all, err);
}

/* ---- lines ---- */
void report_event(FILE *f, const char *kind, const char *who, uint64_t step, const char *text)
{
    char stamp[32], k[100], w[300], t[3000];
    if (!f)
        return;
    time_text(stamp);
    json_quote(k, sizeof k, kind);
    json_quote(w, sizeof w, who);
    json_quote(t, sizeof t, text);
    fprintf(f, "{\"time\":\"%s\",\"event\":%s,\"who\":%s,\"step\":%llu,\"text\":%s}\n", stamp, k, w, (unsigned long long)step, t);
    fflush(f);
}
