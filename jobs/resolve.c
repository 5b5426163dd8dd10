/* What is left of a spec: its resolved text, steps, learning rates, and what a resume may change. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"
#include "jobs/check.h"

#define RESOLVED_MAX 65536
#define PRUNE_LR 0.1                  /* of optimizer.lr */

static const char *const families[] = {"mlp", "cnn"};   /* by the enums of jobs.h */
static const char *const optimizers[] = {"sgd", "adamw"};
static const char *const schedules[] = {"constant", "linear", "cosine", "step"};

struct text { char *at; size_t size, used; };
static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at + t->used, t->size - t->used, fmt, ap);
    va_end(ap);
    t->used += (size_t)n;
    CHECK(t->used < t->size);
}

static void add_list(struct text *t, const char *key, const uint32_t *v, uint32_t n)
{
    add(t, ", %s: [", key);
    for (uint32_t i = 0; i < n; i++)
        add(t, "%s%u", i ? ", " : "", v[i]);
    add(t, "]");
}

/* What a path may hold must survive the next load: a dollar, an end of line. */
static void add_text(struct text *t, const char *key, const char *s)
{
    add(t, "%s: \"", key);
    for (; *s; s++)
        add(t, *s == '"' || *s == '\\' ? "\\%c" : *s == '$' ? "$%c" : iscntrl((unsigned char)*s) ? "\\x%02x" : "%c", *s);
    add(t, "\"");
}

static void add_number(struct text *t, const char *key, double v)
{
    char number[NUMBER_TEXT_BYTES];
    number_text(number, v);
    add(t, "%s: %s", key, number);
}

/* Names that a YAML reader would take for a number or a truth. */
static const char *quote_of(const char *name)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
    bool quoted = isdigit((unsigned char)*name);
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        quoted = quoted || strcmp(name, words[i]) == 0;
    return quoted ? "\"" : "";
}

static void add_set(struct text *t, const char *name, const struct job_dataset *d)
{
    add(t, "  %s: {format: idx", name);
    add_text(t, ", images", d->images);
    add_text(t, ", labels", d->labels);
    add(t, "}\n");
}

static void add_optimizer(struct text *t, const struct job_optim *o)
{
    bool adamw = o->name == OPTIMIZER_ADAMW;
    add(t, "  optimizer: {name: %s", optimizers[o->name]);
    add_number(t, ", lr", o->lr);
    add_number(t, ", weight_decay", o->weight_decay);
    if (adamw) {
        add_number(t, ", beta1", o->beta1);
        add_number(t, ", beta2", o->beta2);
        add_number(t, ", eps", o->eps);
    } else {
        add_number(t, ", momentum", o->momentum);
        add(t, ", nesterov: %s", o->nesterov ? "true" : "false");
    }
    add(t, ", schedule: %s", schedules[o->schedule]);
    add_number(t, ", final", o->final);
    add_number(t, ", factor", o->step_factor);
    add(t, ", every: %llu, warmup: %llu", (unsigned long long)o->step_every, (unsigned long long)o->warmup);
    add_number(t, ", clip", o->clip);
    add(t, "}\n");
}

static void add_slurm(struct text *t, const struct job_slurm *s, bool first)
{
    if (s->time_s)
        add(t, ", time: %us", s->time_s);
    if (s->partition)
        add(t, ", partition: \"%s\"", s->partition);
    if (s->account)
        add(t, ", account: \"%s\"", s->account);
    add(t, ", slurm: {");
    if (first)
        add(t, "drain: %us, retries: {time_limit: %u, preemption: %u, node_failure: %u, job_failure: %u}", s->drain_s, s->retries[RETRY_TIME_LIMIT],
            s->retries[RETRY_PREEMPTION], s->retries[RETRY_NODE_FAILURE], s->retries[RETRY_JOB_FAILURE]);
    for (uint32_t i = 0; i < s->option_count; i++) {
        const char *v = s->option[i].value, *quote = v && strspn(v, "0123456789") < strlen(v) ? "\"" : "";
        add(t, "%s%s: %s%s%s", first || i ? ", " : "", s->option[i].name, quote, v ? v : "true", quote);
    }
    add(t, "}");
}

const char *job_calibration_name(enum job_calibration c)
{
    static const char *const names[] = {"mse", "percentile", "entropy", "minmax"};
    return names[c];
}

static void add_export(struct text *t, const struct job_spec *s)
{
    static const char *const formats[] = {"onnx", "safetensors", "triton"};   /* by bit */
    const char *comma = "";
    if (!s->has_export) {
        add(t, "export: null\n");
        return;
    }
    add(t, "export:\n");
    if (s->prune.sparsity > 0) {
        add_number(t, "  prune: {sparsity", s->prune.sparsity);
        add_number(t, ", epochs", s->prune.epochs);
        add(t, "}\n");
    }
    if (s->quantize.on)
        add(t, "  quantize: {scheme: static, images: %u, calibration: %s}\n", s->quantize.images, job_calibration_name(s->quantize.calibration));
    add_number(t, "  gate: {max_drop", s->quantize.max_drop);
    add(t, "}\n  to: [");
    for (unsigned i = 0; i < 3; i++)
        if (s->export_to >> i & 1) {
            add(t, "%s%s", comma, formats[i]);
            comma = ", ";
        }
    add(t, "]\n");
    if (s->registry) {
        add_text(t, "  registry", s->registry);
        add(t, "\n  model: %s%s%s\n", quote_of(s->registry_model), s->registry_model, quote_of(s->registry_model));
    }
}

void resolve_text(struct job *job)
{
    const struct job_spec *s = &job->spec;
    struct text t = {arena_alloc(&job->arena, RESOLVED_MAX, 1), RESOLVED_MAX, 0};
    CHECK(t.at != NULL);
    add(&t, "viaduct: v1\nname: %s%s%s\nmodel: {family: %s, classes: %u", quote_of(s->name), s->name, quote_of(s->name), families[s->model.family], s->model.classes);
    add_list(&t, "input", s->model.input, s->model.input_dim_count);
    if (s->model.family == FAMILY_CNN)
        add_list(&t, "channels", s->model.channels, s->model.channel_count);
    add_list(&t, "hidden", s->model.hidden, s->model.hidden_count);
    if (s->model.family == FAMILY_CNN)
        add(&t, ", norm: %s", s->model.batch_norm ? "batch" : "none");
    add(&t, "}\ndata:\n");
    add_set(&t, "train", &s->train);
    if (s->has_eval)
        add_set(&t, "eval", &s->eval);
    add(&t, "train:\n");
    if (s->steps)
        add(&t, "  steps: %llu", (unsigned long long)s->steps);
    else
        add_number(&t, "  epochs", s->epochs);
    add(&t, "\n  batch: %u\n  lanes: %u\n", s->batch, s->lanes);
    add_optimizer(&t, &s->optimizer);
    add(&t, "  loss: cross_entropy\n  precision: fp32\n  seed: %llu\n  deterministic: %s\ncoordinator: {", (unsigned long long)s->seed,
        s->deterministic ? "true" : "false");
    add_text(&t, s->coordinator_door ? "door" : "listen", s->coordinator_door ? s->coordinator_door : s->listen);
    if (s->address)
        add_text(&t, ", address", s->address);
    if (s->metrics)
        add_text(&t, ", metrics", s->metrics);
    add(&t, "}\nsites:\n");
    for (uint32_t i = 0, slurm = 0; i < s->site_count; i++) {
        const struct job_site *site = &s->sites[i];
        add(&t, "  - {name: %s%s%s, via: %s, ranks: %u, threads: %u, ps_shards: %u", quote_of(site->name), site->name, quote_of(site->name), job_via_word(site->via), site->ranks, site->threads, site->ps_shards);
        if (site->nodes > 1)
            add(&t, ", nodes: %u", site->nodes);
        if (site->via == VIA_SLURM)
            add_slurm(&t, &site->slurm, slurm++ == 0);
        else if (site->via == VIA_JOIN && site->slurm.given)
            add_slurm(&t, &site->slurm, true);
        if (site->door)
            add_text(&t, ", door", site->door);
        if (site->door_address)
            add_text(&t, ", door_address", site->door_address);
        add(&t, "}\n");
    }
    add(&t, "checkpoint: {every: %llu steps, keep: %u, replicas: %u, ram_every: %u}\n", (unsigned long long)s->checkpoint_every, s->checkpoint_keep,
        s->checkpoint_replicas, s->ram_every);
    add_export(&t, s);
    job->resolved_yaml = t.at;
}

/* ---- steps and rates ---- */
static uint64_t steps_of(const struct job_spec *s, double epochs, uint64_t samples)
{
    uint64_t per_pass = (samples + s->batch - 1) / s->batch;
    double whole = floor(epochs), part = epochs - whole;
    uint64_t steps = (uint64_t)whole * per_pass + (uint64_t)ceil(part * (double)per_pass);
    return steps ? steps : 1;
}

uint64_t job_steps(const struct job_spec *s, uint64_t samples) { return s->steps ? s->steps : steps_of(s, s->epochs, samples); }

uint64_t job_prune_steps(const struct job_spec *s, uint64_t samples) { return s->prune.sparsity > 0 ? steps_of(s, s->prune.epochs, samples) : 0; }

double job_lr(const struct job_optim *o, uint64_t step, uint64_t total_steps)
{
    double lr = o->lr, at = total_steps > 1 ? (double)step / (double)(total_steps - 1) : 0;
    if (o->schedule == SCHEDULE_LINEAR)
        lr = o->lr * (1 + (o->final - 1) * at);
    else if (o->schedule == SCHEDULE_COSINE)
        lr = o->lr * (o->final + (1 - o->final) * 0.5 * (1 + cos(3.14159265358979323846 * at)));
    else if (o->schedule == SCHEDULE_STEP)
        lr = o->lr * pow(o->step_factor, (double)(step / o->step_every));
    if (step < o->warmup) {
        double warm = o->lr * (double)(step + 1) / (double)o->warmup;
        lr = warm < lr ? warm : lr;
    }
    return lr;
}

/* The weights are near a minimum of theirs: the full rate would leave it, and the last one of a long decay is too low to make up for what was cut. */
double job_prune_lr(const struct job_optim *o, uint64_t step, uint64_t total_steps)
{
    double at = total_steps > 1 ? (double)step / (double)(total_steps - 1) : 0, last = o->final < PRUNE_LR ? o->final : PRUNE_LR;
    return o->lr * (last + (PRUNE_LR - last) * 0.5 * (1 + cos(3.14159265358979323846 * at)));
}

/* ---- resume ---- */
int job_resume_trained(const struct job_spec *spec, uint64_t step, bool pruned, uint64_t samples, struct err *err)
{
    uint64_t steps = job_steps(spec, samples), prunes = job_prune_steps(spec, samples);
    if (pruned ? step > steps && step <= steps + prunes : step <= steps)
        return 0;
    if (pruned)
        return err_set(err, ERR_USAGE, "the newest checkpoint, of step %llu, is of phase prune, and by the spec pruning takes steps %llu to %llu: resume it with the "
                       "train.steps or train.epochs and the export.prune that it had", (unsigned long long)step, (unsigned long long)steps + 1,
                       (unsigned long long)(steps + prunes));
    return err_set(err, ERR_USAGE, "the run has trained %llu steps already, the spec asks for %llu: resume it with train.steps=%llu or more",
                   (unsigned long long)step, (unsigned long long)steps, (unsigned long long)step);
}
