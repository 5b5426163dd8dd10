#include "cli/live.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"

#define PLAIN_EVERY_MS 10000          /* without a terminal: a line this often */

struct live {
    struct loop *loop;
    const struct rundir *run;
    struct link *link;
    bool open, terminal, shown, stop_wanted, stop_sent;
    uint64_t next_plain_ms;
    char last[512], printed[512];     /* newest line; the one last printed without a terminal */
};

static struct msg_hello hello_of(const struct rundir *run)
{
    struct msg_hello h = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_CLI}};
    snprintf(h.job, sizeof h.job, "%s", run->job);
    snprintf(h.build, sizeof h.build, "%s", VIADUCT_VERSION);
    return h;
}

/* ---- text ---- */
static void eta_text(double seconds, char *out, size_t size)
{
    if (!(seconds >= 0) || seconds > 1e7)
        snprintf(out, size, "-");
    else if (seconds < 60)
        snprintf(out, size, "%.0fs", seconds);
    else if (seconds < 3600)
        snprintf(out, size, "%dm%02ds", (int)seconds / 60, (int)seconds % 60);
    else
        snprintf(out, size, "%dh%02dm", (int)seconds / 3600, (int)seconds / 60 % 60);
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

enum { SITES_FULL, SITES_SHORT, SITES_NONE };

/* Ranks and shards that are up: by site, or in all. */
static void sites_text(const json_t *sites, int how, char *out, size_t size)
{
    double up = 0, ranks = 0, shards_up = 0, shards = 0;
    size_t n = 0, i;
    json_t *site;
    out[0] = '\0';
    json_array_foreach(sites, i, site) {
        double u = number(site, "up"), r = number(site, "ranks"), s = number(site, "shards"), su = number(site, "shards_up");
        up += isnan(u) ? 0 : u, ranks += isnan(r) ? 0 : r, shards += isnan(s) ? 0 : s, shards_up += isnan(su) ? 0 : su;
        if (how == SITES_FULL && n + 160 < size)
            n += (size_t)snprintf(out + n, size - n, "  %.60s %.0f/%.0f", string(site, "name"), isnan(u) ? 0 : u, isnan(r) ? 0 : r);
        if (how == SITES_FULL && s > 0 && n + 80 < size)
            n += (size_t)snprintf(out + n, size - n, " ps %.0f/%.0f", isnan(su) ? 0 : su, s);
    }
    if (how == SITES_SHORT && ranks > 0)
        n += (size_t)snprintf(out, size, "  ranks %.0f/%.0f", up, ranks);
    if (how == SITES_SHORT && shards > 0)
        snprintf(out + n, size - n, "  ps %.0f/%.0f", shards_up, shards);
}

void live_line(const char *json, unsigned width, char *out, size_t size)
{
    /* Most columns first; each further row does without one thing more. */
    static const struct { bool loss, eta, rate, wan; int sites; } rows[] = {
        {true, true, true, true, SITES_FULL},     {true, true, true, true, SITES_SHORT},   {true, true, true, false, SITES_SHORT},
        {true, true, true, false, SITES_NONE},    {true, true, false, false, SITES_NONE},  {true, false, false, false, SITES_NONE},
        {false, false, false, false, SITES_NONE},
    };
    json_t *s = json_loads(json, 0, NULL);
    char eta[32], sites[400], phase[48];
    double step = number(s, "step"), steps = number(s, "steps"), loss = number(s, "loss"), rate = number(s, "samples_per_second"),
           wan = number(s, "wan_bytes_per_second");
    bool running = strcmp(string(s, "phase"), "running") == 0;   /* else nothing is trained that a rate would tell of */
    bool ends = !running && strcmp(string(s, "phase"), "starting") != 0;   /* its processes leave, which is no loss */
    snprintf(phase, sizeof phase, "%s%s%s", string(s, "phase"), running && *string(s, "training_phase") ? " " : "", running ? string(s, "training_phase") : "");
    eta_text(number(s, "eta_seconds"), eta, sizeof eta);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = (size_t)snprintf(out, size, "%s", s && !isnan(step) ? phase : "starting");
#define ADD(have, ...) do { if ((have) && n < size) n += (size_t)snprintf(out + n, size - n, __VA_ARGS__); } while (0)
        ADD(steps > 0, "  step %.0f/%.0f", step, steps);
        ADD(rows[i].loss && !isnan(loss), "  loss %.4f", loss);
        ADD(rows[i].rate && running && rate > 0, "  %.0f samples/s", rate);
        ADD(rows[i].eta && running && rate > 0, "  ETA %s", eta);
        sites_text(json_object_get(s, "sites"), rows[i].sites, sites, sizeof sites);
        ADD(!ends, "%s", sites);
        ADD(rows[i].wan && running && wan > 0, "  WAN %.1f MB/s", wan / 1e6);
#undef ADD
        if (!width || n <= width)
            break;
        if (i + 1 == ARRAY_LEN(rows) && width < size)
            out[width] = '\0';
    }
    json_decref(s);
}

bool live_metrics(const char *json, char *out, size_t size)
{
    json_t *s = json_loads(json, 0, NULL);
    snprintf(out, size, "%s", string(s, "metrics"));
    json_decref(s);
    return *out != '\0';
}

/* ---- the live line ---- */
void live_clear(struct live *l)
{
    if (l->terminal && l->shown)
        fprintf(stderr, "\r\033[K");
    l->shown = false;
}

static void print_plain(struct live *l)
{
    if (!l->last[0] || strcmp(l->last, l->printed) == 0)
        return;
    fprintf(stderr, "%s\n", l->last);
    snprintf(l->printed, sizeof l->printed, "%s", l->last);
}

static void show(struct live *l, const char *json)
{
    uint64_t now = loop_now_ms(l->loop);
    live_line(json, 0, l->last, sizeof l->last);
    if (l->terminal) {
        char line[512];
        struct winsize w;
        bool sized = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1;
        live_line(json, sized ? w.ws_col - 1u : 79u, line, sizeof line);   /* the last column would wrap */
        fprintf(stderr, "\r\033[K%s", line);
        l->shown = true;
    } else if (now >= l->next_plain_ms) {
        print_plain(l);
        l->next_plain_ms = now + PLAIN_EVERY_MS;
    }
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    (void)link;
    (void)peer;
    ((struct live *)arg)->open = true;
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    (void)link;
    (void)msg;
    if (type != MSG_STATUSREPLY)
        return;
    char *json = strndup((const char *)payload, size);
    if (json)
        show(arg, json);
    free(json);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct live *l = arg;
    (void)link;
    (void)why;
    l->link = NULL;
    l->open = l->stop_sent = false;   /* a coordinator that restarts knows nothing of the stop */
}

static const struct link_ops live_ops = {on_opened, on_message, on_closed};

int live_open(struct loop *loop, const struct rundir *run, struct live **out, struct err *err)
{
    struct live *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(err, ERR_NO_MEMORY, "no memory for the live line");
    *l = (struct live){.loop = loop, .run = run, .terminal = isatty(STDERR_FILENO) && !getenv("NO_LIVE")};
    *out = l;
    return 0;
}

void live_close(struct live *l)
{
    if (!l)
        return;
    if (l->terminal)
        live_clear(l);
    else
        print_plain(l);
    free(l);
}

void live_tick(struct live *l)
{
    struct err err = ERR_INIT;
    char address[ADDRESS_LIMIT];
    struct msg_status ask = {0};
    struct msg_stop stop = {.why = STOP_REQUESTED};
    if (l->open && l->stop_wanted && !l->stop_sent)
        l->stop_sent = link_send(l->link, MSG_STOP, 0, &stop, NULL, 0, &err) == 0;
    if (l->open) {
        if (link_send(l->link, MSG_STATUS, 0, &ask, NULL, 0, &err) < 0)
            l->open = false;
    } else if (!l->link && rundir_coordinator(l->run, "unix", address, &err) == 0) {
        struct msg_hello hello = hello_of(l->run);
        if (net_dial(l->loop, address, NULL, &hello, &live_ops, l, &l->link, &err) < 0)
            l->link = NULL;   /* tried again at the next tick */
    }
}

void live_want_stop(struct live *l)
{
    l->stop_wanted = true;
    live_tick(l);
}

void live_note(struct live *l, const char *text)
{
    live_clear(l);
    fprintf(stderr, "%s\n", text);
}

/* ---- one question ---- */
struct question { struct loop *loop; enum msg_type ask; const void *message; char *json; bool sent; struct err err; };

static void q_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct question *q = arg;
    (void)peer;
    q->sent = link_send(link, q->ask, 0, q->message, NULL, 0, &q->err) == 0;
    struct msg_status after = {0};
    if (q->ask != MSG_STATUS)   /* the answer to this one says that the other was read */
        link_send(link, MSG_STATUS, 0, &after, NULL, 0, &q->err);
}

static void q_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct question *q = arg;
    (void)link;
    (void)msg;
    if (type == MSG_STATUSREPLY && !q->json) {
        q->json = strndup((const char *)payload, size);
        loop_stop(q->loop);
    }
}

static void q_closed(void *arg, struct link *link, const struct err *why)
{
    struct question *q = arg;
    (void)link;
    if (!q->json)
        q->err = *why;
    loop_stop(q->loop);
}

static void q_late(void *arg)
{
    struct question *q = arg;
    err_set(&q->err, ERR_TEMPORARY, "the coordinator does not answer");
    loop_stop(q->loop);
}

static int ask(const struct rundir *run, enum msg_type type, const void *message, uint64_t timeout_ms, char **json, struct err *err)
{
    static const struct link_ops question_ops = {q_opened, q_message, q_closed};
    struct question q = {.ask = type, .message = message};
    char address[ADDRESS_LIMIT];
    struct msg_hello hello = hello_of(run);
    struct link *link;
    TRY(rundir_coordinator(run, "unix", address, err));
    TRY(loop_new(&q.loop, err));
    int rc = net_dial(q.loop, address, NULL, &hello, &question_ops, &q, &link, err);
    if (rc == 0) {
        timer_start(q.loop, timeout_ms, 0, q_late, &q);
        loop_run(q.loop);
        rc = q.json ? 0 : (*err = q.err, err->code ? err->code : err_set(err, ERR_TEMPORARY, "the coordinator does not answer"));
    }
    loop_free(q.loop);
    if (rc == 0)
        *json = q.json;
    else
        free(q.json);
    return rc;
}

int live_ask(const struct rundir *run, uint64_t timeout_ms, char **json, struct err *err)
{
    struct msg_status status = {0};
    return ask(run, MSG_STATUS, &status, timeout_ms, json, err);
}

int live_stop(const struct rundir *run, uint64_t timeout_ms, struct err *err)
{
    char *json = NULL;
    struct msg_stop stop = {.why = STOP_REQUESTED};
    TRY(ask(run, MSG_STOP, &stop, timeout_ms, &json, err));
    free(json);
    return 0;
}

int live_drain(const struct rundir *run, uint8_t site, uint64_t timeout_ms, struct err *err)
{
    char *json = NULL;
    struct msg_drain drain = {.site = site};
    TRY(ask(run, MSG_DRAIN, &drain, timeout_ms, &json, err));
    free(json);
    return 0;
}

/* ---- summary ---- */
static json_t *report_of(const char *run_dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    return json_load_file(path, 0, NULL);
}

/* The report may still say "running" of a run that nobody ended. */
int live_summary_json(const char *run_dir, const char *status, const char *resume, FILE *out, struct err *err)
{
    static const char *const taken[][2] = {{"step", "steps"}, {"steps", "planned_steps"}, {"error", "error"}, {"error_code", "error_code"}, {"samples", "samples"}, {"epochs", "epochs"},
                                           {"wall_seconds", "wall_seconds"}, {"checkpoint", "checkpoint"}, {"final", "final"},
                                           {"weights_sha256", "weights_sha256"}, {"export", "export"}};
    json_t *r = report_of(run_dir), *o = json_object();
    json_object_set_new(o, "phase", json_string(status));
    json_object_set_new(o, "status", json_string(status));
    for (unsigned i = 0; i < ARRAY_LEN(taken); i++) {
        json_t *v = json_object_get(r, taken[i][1]);
        json_object_set_new(o, taken[i][0], v ? json_incref(v) : json_null());
    }
    json_object_set_new(o, "resume", resume ? json_string(resume) : json_null());
    char *text = json_dumps(o, JSON_REAL_PRECISION(17));
    if (text)
        json_print_short(out, text);
    fputc('\n', out);
    bool ok = text && fflush(out) == 0;
    free(text);
    json_decref(o);
    json_decref(r);
    return ok ? 0 : err_set(err, ERR_IO, "the status could not be written to stdout");
}

static void print_number(FILE *out, const char *label, double v, const char *format)
{
    if (isnan(v))
        return;
    fprintf(out, "  %-18s ", label);
    fprintf(out, format, v);
    fputc('\n', out);
}

static void print_steps(FILE *out, const json_t *r)
{
    double steps = number(r, "steps"), planned = number(r, "planned_steps");
    if (planned > 0 && planned != steps)
        fprintf(out, "  %-18s %.0f of %.0f\n", "steps", steps, planned);
    else
        print_number(out, "steps", steps, "%.0f");
}

static void print_checkpoint(FILE *out, const json_t *ckpt)
{
    size_t i;
    json_t *site;
    if (!*string(ckpt, "path"))
        return;
    fprintf(out, "  %-18s %s, step %.0f, verified at", "checkpoint", string(ckpt, "path"), number(ckpt, "step"));
    json_array_foreach(json_object_get(ckpt, "verified_sites"), i, site)
        fprintf(out, "%s %s", i ? "," : "", json_string_value(site));
    fputc('\n', out);
}

void live_summary(const char *run_dir, FILE *out)
{
    char path[600];
    json_t *r = report_of(run_dir);
    if (!r) {
        fprintf(out, "no report was written; the reason stands in %s/log/\n", run_dir);
        return;
    }
    const json_t *final = json_object_get(r, "final"), *ledger = json_object_get(r, "ledger"), *ckpt = json_object_get(r, "checkpoint");
    const json_t *wan = json_object_get(r, "wan"), *export = json_object_get(r, "export"), *floats = json_object_get(export, "float");
    const json_t *quantized = json_object_get(export, "quantized"), *gate = json_object_get(export, "gate");
    const json_t *registered = json_object_get(export, "registered");
    const char *status = string(r, "status");
    fprintf(out, "%s: %s\n", string(r, "name"), strcmp(status, "running") == 0 ? "interrupted" : status);
    if (*string(r, "error"))
        fprintf(out, "  %-18s %s\n", "error", string(r, "error"));
    print_steps(out, r);
    print_number(out, "samples/s", number(r, "samples_per_second"), "%.0f");
    print_number(out, "wall seconds", number(r, "wall_seconds"), "%.1f");
    print_number(out, "train loss", number(final, "train_loss"), "%.4f");
    print_number(out, "eval loss", number(final, "eval_loss"), "%.4f");
    print_number(out, "eval accuracy", number(final, "eval_accuracy"), "%.4f");
    if (json_is_object(ledger))
        fprintf(out, "  %-18s %.0f pass%s, %.0f samples missing, %.0f duplicated\n", "ledger", number(ledger, "passes"), number(ledger, "passes") == 1 ? "" : "es",
                number(ledger, "missing"), number(ledger, "duplicated"));
    print_number(out, "WAN megabytes", number(wan, "bytes_sent") / 1e6, "%.1f");
    print_number(out, "restarts", (double)json_array_size(json_object_get(r, "restarts")), "%.0f");
    print_checkpoint(out, ckpt);
    if (*string(floats, "path"))
        fprintf(out, "  %-18s %s\n", "exported", string(floats, "path"));
    print_number(out, "its accuracy", number(floats, "accuracy"), "%.4f");
    if (json_is_object(gate))
        fprintf(out, "  %-18s %s: accuracy %+.4f, lower 95 %% bound %+.4f, allowed %+.4f\n", "gate", json_is_true(json_object_get(gate, "passed")) ? "passed" : "failed",
                0 - number(gate, "drop"), number(gate, "low95"), 0 - number(gate, "max_drop"));
    if (*string(quantized, "path"))
        fprintf(out, "  %-18s %s\n", "quantized", string(quantized, "path"));
    print_number(out, "its accuracy", number(quantized, "accuracy"), "%.4f");
    if (*string(registered, "model"))
        fprintf(out, "  %-18s %s version %.0f in %s\n", "registered", string(registered, "model"), number(registered, "version"), string(registered, "registry"));
    if (*string(r, "weights_sha256"))
        fprintf(out, "  %-18s %s\n", "weights_sha256", string(r, "weights_sha256"));
    snprintf(path, sizeof path, "%s/report.html", run_dir);
    if (access(path, R_OK) == 0)
        fprintf(out, "  %-18s %s\n", "page", path);
    json_decref(r);
}
