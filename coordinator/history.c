/* What the log says, as manifests, metrics and the ledger need it. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/shell.h"
#include "engine/engine.h"

void history_free(struct history *h)
{
    free(h->round);
    *h = (struct history){0};
}

static void make_room(struct history *h, uint64_t rounds)
{
    if (rounds <= h->room)
        return;
    uint64_t room = MAX(h->room * 2, rounds + 1024);
    struct past *more = realloc(h->round, room * sizeof *more);
    CHECK(more != NULL);
    h->round = more;
    h->room = room;
}

void history_begin_at(struct history *h, uint64_t base)
{
    make_room(h, base);
    if (base > h->count)
        memset(h->round + h->count, 0, (base - h->count) * sizeof *h->round);
    h->count = base;
}

static void keep_commit(struct history *h, const struct record *r, double seconds)
{
    if (r->round != h->count)
        return;
    make_room(h, h->count + 1);
    h->round[h->count++] = (struct past){.first = r->first, .samples = r->totals.samples, .pass = r->pass, .count = r->count, .view = r->view, .lr = r->lr,
                                         .loss_sum = r->totals.loss_sum, .seconds = seconds};
}

static void keep_checkpoint(struct history *h, uint64_t step, uint64_t position)
{
    unsigned n = ARRAY_LEN(h->checkpoint);
    if (h->checkpoint_count == n) {
        memmove(h->checkpoint, h->checkpoint + 1, (n - 1) * sizeof h->checkpoint[0]);
        h->checkpoint_count--;
    }
    h->checkpoint[h->checkpoint_count].step = step;
    h->checkpoint[h->checkpoint_count++].position = position;
}

void history_entry(struct history *h, const struct log_entry *e, double seconds)
{
    if (e->kind == LOG_COMMIT) {
        keep_commit(h, &e->u.record, seconds);
    } else if (e->kind == LOG_CHECKPOINT) {
        keep_checkpoint(h, e->u.checkpoint.step, e->position);
    } else if (e->kind == LOG_VIEW) {
        if (e->u.view.generation != h->generation)
            history_begin_at(h, e->u.view.base);
        h->generation = e->u.view.generation;
    }
}

static uint64_t per_pass(const struct msg_plan *p) { return (p->samples_per_pass + p->batch - 1) / p->batch; }

/* A round below a checkpoint of another log: that checkpoint's manifest says that every sample up to it was trained. */
static struct past by_manifest(const struct msg_plan *plan, uint64_t round)
{
    uint64_t first = round % per_pass(plan) * plan->batch, left = plan->samples_per_pass - first;
    return (struct past){.first = first, .count = (uint32_t)MIN(left, (uint64_t)plan->batch), .pass = (uint32_t)(round / per_pass(plan))};
}

static struct past round_at(const struct history *h, const struct msg_plan *plan, uint64_t round)
{
    return h->round[round].samples ? h->round[round] : by_manifest(plan, round);
}

/* One pass, or its beginning: `due` samples from 0 on should have been trained once each. */
static void count_pass(const struct history *h, const struct msg_plan *plan, uint32_t pass, uint64_t rounds, uint64_t due, struct report *out)
{
    uint64_t samples_per_pass = plan->samples_per_pass;
    uint8_t *seen = calloc(samples_per_pass, 1);
    CHECK(seen != NULL);
    for (uint64_t r = 0; r < rounds; r++) {
        struct past round = round_at(h, plan, pass * per_pass(plan) + r);
        for (uint64_t i = round.first; i < round.first + round.count; i++) {
            bool belongs = round.pass == pass && i < samples_per_pass;
            out->duplicated += !belongs || seen[i];
            if (belongs)
                seen[i] = 1;
        }
    }
    for (uint64_t i = 0; i < due; i++)
        out->missing += !seen[i];
    free(seen);
}

/* What the committed records say was trained, against what the steps should have held: every sample of a pass once. */
void history_ledger(const struct history *h, const struct msg_plan *plan, struct report *out)
{
    if (!plan->samples_per_pass || !plan->batch)
        return;
    uint64_t in_pass = per_pass(plan);
    out->have_ledger = true;
    out->passes = (h->count + in_pass - 1) / in_pass;
    out->missing = out->duplicated = 0;
    for (uint64_t p = 0; p < out->passes; p++) {
        uint64_t rounds = MIN(in_pass, h->count - p * in_pass), due = MIN(rounds * plan->batch, plan->samples_per_pass);
        count_pass(h, plan, (uint32_t)p, rounds, due, out);
    }
}

double history_last_pass_loss(const struct history *h, const struct msg_plan *plan)
{
    double sum = 0;
    uint64_t samples = 0, end = plan->phases.count ? MIN(h->count, plan->phases.at[0].end) : h->count;
    for (uint64_t r = end; r-- > 0 && h->round[r].pass == h->round[end - 1].pass;) {
        sum += h->round[r].loss_sum;
        samples += h->round[r].samples;
    }
    return samples ? sum / (double)samples : NAN;
}

uint64_t history_samples(const struct history *h, const struct msg_plan *plan)
{
    uint64_t samples = 0;
    for (uint64_t r = 0; r < h->count && plan->batch && plan->samples_per_pass; r++)
        samples += round_at(h, plan, r).count;
    return samples;
}

/* ---- manifests ---- */
/* The phase that a checkpoint's last step was of. */
static const char *phase_of(const struct msg_plan *plan, uint64_t step)
{
    uint64_t first;
    const struct phase *phase = phases_find(&plan->phases, step > 0 ? step - 1 : 0, &first);
    return phase_name(phase ? phase->kind : PHASE_TRAIN);
}

static void fill_meta(const struct manifest_source *from, const struct checkpoint_entry *e, struct ckpt_meta *m)
{
    const struct msg_plan *plan = from->plan;
    const struct history *h = from->history;
    struct optim_config optim = {.kind = (enum optim_kind)plan->optim_kind, .momentum = plan->momentum};
    uint8_t digest[SHA256_BYTES];
    *m = (struct ckpt_meta){.generation = e->generation, .step = e->step, .seed = plan->seed, .samples_per_pass = plan->samples_per_pass,
                            .pass = (uint32_t)(e->step / per_pass(plan)), .position = e->step % per_pass(plan) * plan->batch, .slot_count = optim_slots(&optim),
                            .model_json = from->declaration->model, .spec_yaml = from->spec_yaml};
    m->view = e->step > 0 && e->step <= h->count ? h->round[e->step - 1].view : 0;
    for (unsigned i = 0; i < h->checkpoint_count; i++)
        if (h->checkpoint[i].step == e->step)
            m->log_position = h->checkpoint[i].position;
    snprintf(m->job_id, sizeof m->job_id, "%s", from->job_id);
    snprintf(m->phase, sizeof m->phase, "%s", phase_of(plan, e->step));
    snprintf(m->optimizer, sizeof m->optimizer, "%s", plan->optim_kind == OPTIM_SGD ? "sgd" : "adamw");
    for (unsigned k = 0; k < m->slot_count; k++)
        snprintf(m->slot_name[k], sizeof m->slot_name[k], "%s", optim_slot_name(&optim, k));
    snprintf(m->data_sha256, sizeof m->data_sha256, "%s", from->declaration->data_sha256);
    sha256_of(m->spec_yaml, strlen(m->spec_yaml), digest);
    hex_of(digest, sizeof digest, m->spec_sha256);
}

int history_manifest(const struct manifest_source *from, const struct checkpoint_entry *e, char **text, size_t *size, struct err *err)
{
    struct ckpt_manifest *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    fill_meta(from, e, &m->meta);
    m->layout = from->declaration->layout;
    m->part_count = e->part_count;
    for (unsigned i = 0; i < e->part_count; i++) {
        m->part[i] = (struct ckpt_part){.index = e->part[i].shard, .size_bytes = e->part[i].size_bytes};
        memcpy(m->part[i].sha256, e->part[i].sha256, sizeof m->part[i].sha256);
    }
    m->part_of_block = calloc(m->layout.block_count, sizeof *m->part_of_block);
    CHECK(m->part_of_block != NULL);
    layout_shards(&m->layout, from->plan->shard_count, m->part_of_block);
    int rc = ckpt_manifest_encode(m, text, size, err);
    free(m->part_of_block);
    free(m);
    return rc;
}

/* ---- metrics.jsonl: what the log says, cut at a rollback ---- */
double history_read_seconds(struct history *h, const char *path)
{
    char line[400];
    double newest = 0;
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long step;
        const char *at = strstr(line, "\"seconds\":");
        if (!at || sscanf(line, "{\"step\":%llu", &step) != 1)
            continue;
        double seconds = strtod(at + strlen("\"seconds\":"), NULL);
        newest = MAX(newest, seconds);
        if (step >= 1 && step <= h->count)
            h->round[step - 1].seconds = seconds;
    }
    if (f)
        fclose(f);
    for (uint64_t r = 1; r < h->count; r++)   /* committed, and died before its line was written */
        h->round[r].seconds = MAX(h->round[r].seconds, h->round[r - 1].seconds);
    return newest;
}

int history_write_metrics(const struct history *h, const char *path, FILE **out, struct err *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    for (uint64_t r = 0; r < h->count; r++) {
        const struct past *p = &h->round[r];
        if (p->samples)
            report_metric(f, r + 1, p->pass + 1, p->loss_sum / (double)p->samples, p->lr, p->samples, p->seconds);
    }
    fclose(f);
    if (*out)
        fclose(*out);
    *out = NULL;
    int rc = fs_publish_file(&fs_real, path, text, size, err);
    free(text);
    TRY(rc);
    *out = fopen(path, "ae");
    return *out ? 0 : err_errno(err, errno, "cannot write %s", path);
}
