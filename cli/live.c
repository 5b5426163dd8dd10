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

void live_line(const char *json, char *out, size_t size)
{
    json_t *s = json_loads(json, 0, NULL);
    char eta[32], phase[48], ranks[400] = "";
    size_t n = 0, i;
    json_t *site;
    json_array_foreach(json_object_get(s, "sites"), i, site) {
        double up = number(site, "up"), of = number(site, "ranks"), shards = number(site, "shards"), shards_up = number(site, "shards_up");
        if (n < sizeof ranks - 120)
            n += (size_t)snprintf(ranks + n, sizeof ranks - n, "  %.60s %.0f/%.0f", string(site, "name"), isnan(up) ? 0 : up, isnan(of) ? 0 : of);
        if (shards > 0 && n < sizeof ranks - 40)
            n += (size_t)snprintf(ranks + n, sizeof ranks - n, " ps %.0f/%.0f", isnan(shards_up) ? 0 : shards_up, shards);
    }
    eta_text(number(s, "eta_seconds"), eta, sizeof eta);
    bool running = strcmp(string(s, "phase"), "running") == 0;
    snprintf(phase, sizeof phase, "%s%s%s", string(s, "phase"), running && *string(s, "training_phase") ? " " : "", running ? string(s, "training_phase") : "");
    double step = number(s, "step"), steps = number(s, "steps"), loss = number(s, "loss"), rate = number(s, "samples_per_second"),
           wan = number(s, "wan_bytes_per_second");
    if (!s || isnan(step))
        snprintf(out, size, "starting");
    else if (isnan(loss))
        snprintf(out, size, "%s  step %.0f/%.0f%s", phase, step, isnan(steps) ? 0 : steps, ranks);
    else
        snprintf(out, size, "%s  step %.0f/%.0f  loss %.4f  %.0f samples/s  ETA %s%s  WAN %.1f MB/s", phase, step, steps, loss, isnan(rate) ? 0 : rate, eta, ranks,
                 isnan(wan) ? 0 : wan / 1e6);
    json_decref(s);
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
    char line[512];
    live_line(json, line, sizeof line);
    uint64_t now = loop_now_ms(l->loop);
    snprintf(l->last, sizeof l->last, "%s", line);
    if (l->terminal) {
        struct winsize w;
        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 10 && strlen(line) >= w.ws_col)
            line[w.ws_col - 1] = '\0';
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
static void print_number(FILE *out, const char *label, double v, const char *format)
{
    if (isnan(v))
        return;
    fprintf(out, "  %-18s ", label);
    fprintf(out, format, v);
    fputc('\n', out);
}

void live_summary(const char *run_dir, FILE *out)
{
    char path[600];
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    json_t *r = json_load_file(path, 0, NULL);
    if (!r) {
        fprintf(out, "no report was written; the reason stands in %s/log/\n", run_dir);
        return;
    }
    const json_t *final = json_object_get(r, "final"), *ledger = json_object_get(r, "ledger"), *ckpt = json_object_get(r, "checkpoint");
    const json_t *wan = json_object_get(r, "wan"), *export = json_object_get(r, "export"), *floats = json_object_get(export, "float");
    const json_t *quantized = json_object_get(export, "quantized"), *gate = json_object_get(export, "gate");
    const char *status = string(r, "status");
    fprintf(out, "%s: %s\n", string(r, "name"), strcmp(status, "running") == 0 ? "interrupted" : status);
    if (*string(r, "error"))
        fprintf(out, "  %-18s %s\n", "error", string(r, "error"));
    print_number(out, "steps", number(r, "steps"), "%.0f");
    print_number(out, "samples/s", number(r, "samples_per_second"), "%.0f");
    print_number(out, "wall seconds", number(r, "wall_seconds"), "%.1f");
    print_number(out, "train loss", number(final, "train_loss"), "%.4f");
    print_number(out, "eval loss", number(final, "eval_loss"), "%.4f");
    print_number(out, "eval accuracy", number(final, "eval_accuracy"), "%.4f");
    if (json_is_object(ledger))
        fprintf(out, "  %-18s %.0f passes, %.0f samples missing, %.0f duplicated\n", "ledger", number(ledger, "passes"), number(ledger, "missing"),
                number(ledger, "duplicated"));
    print_number(out, "WAN megabytes", number(wan, "bytes_sent") / 1e6, "%.1f");
    print_number(out, "restarts", (double)json_array_size(json_object_get(r, "restarts")), "%.0f");
    if (*string(ckpt, "path"))
        fprintf(out, "  %-18s %s\n", "checkpoint", string(ckpt, "path"));
    if (*string(floats, "path"))
        fprintf(out, "  %-18s %s\n", "exported", string(floats, "path"));
    print_number(out, "its accuracy", number(floats, "accuracy"), "%.4f");
    if (json_is_object(gate))
        fprintf(out, "  %-18s %s: drop %.4f, lower 95 %% bound %+.4f against %+.4f\n", "gate", json_is_true(json_object_get(gate, "passed")) ? "passed" : "failed",
                number(gate, "drop"), number(gate, "low95"), -number(gate, "max_drop"));
    if (*string(quantized, "path"))
        fprintf(out, "  %-18s %s\n", "quantized", string(quantized, "path"));
    print_number(out, "its accuracy", number(quantized, "accuracy"), "%.4f");
    if (*string(r, "weights_sha256"))
        fprintf(out, "  %-18s %s\n", "weights_sha256", string(r, "weights_sha256"));
    snprintf(path, sizeof path, "%s/report.html", run_dir);
    if (access(path, R_OK) == 0)
        fprintf(out, "  %-18s %s\n", "page", path);
    json_decref(r);
}
