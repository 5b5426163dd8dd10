#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/shell.h"
#include "engine/engine.h"

void history_commit(struct history *h, const struct record *r, double seconds)
{
    if (r->round >= h->room) {
        uint64_t room = MAX(h->room * 2, r->round + 1024);
        struct past *more = realloc(h->round, room * sizeof *more);
        CHECK(more != NULL);
        memset(more + h->room, 0, (room - h->room) * sizeof *more);
        h->round = more;
        h->room = room;
    }
    h->round[r->round] = (struct past){.first = r->first, .samples = r->totals.samples, .pass = r->pass, .count = r->count, .view = r->view, .lr = r->lr,
                                       .loss_sum = r->totals.loss_sum, .seconds = seconds};
    h->count = r->round + 1;
}

void history_cut(struct history *h, uint64_t base) { h->count = MIN(h->count, base); }

void history_checkpoint(struct history *h, uint64_t step, uint64_t position)
{
    unsigned n = ARRAY_LEN(h->checkpoint);
    if (h->checkpoint_count == n) {
        memmove(h->checkpoint, h->checkpoint + 1, (n - 1) * sizeof h->checkpoint[0]);
        h->checkpoint_count--;
    }
    h->checkpoint[h->checkpoint_count].step = step;
    h->checkpoint[h->checkpoint_count++].position = position;
}

static uint64_t per_pass(const struct msg_plan *p) { return (p->samples_per_pass + p->batch - 1) / p->batch; }

/* What the committed records say was trained, against what the steps should have held: every sample of a pass once. */
void history_ledger(const struct history *h, const struct msg_plan *plan, struct report *out)
{
    if (!plan->samples_per_pass || !plan->batch)
        return;
    uint64_t words = (plan->samples_per_pass + 63) / 64, wanted = 0, distinct = 0;
    uint64_t *seen = calloc(words, sizeof *seen);
    CHECK(seen != NULL);
    out->have_ledger = true;
    out->passes = (h->count + per_pass(plan) - 1) / per_pass(plan);
    out->duplicated = 0;
    for (uint64_t r = 0; r < h->count; r++) {
        const struct past *p = &h->round[r];
        uint64_t first = r % per_pass(plan) * plan->batch, left = plan->samples_per_pass - first;
        if (r % per_pass(plan) == 0)
            memset(seen, 0, words * sizeof *seen);
        wanted += MIN(left, (uint64_t)plan->batch);
        for (uint64_t i = p->first; i < p->first + p->count && i < plan->samples_per_pass; i++) {
            bool again = seen[i / 64] >> (i % 64) & 1;
            seen[i / 64] |= 1ull << (i % 64);
            out->duplicated += again;
            distinct += !again;
        }
    }
    out->missing = wanted > distinct ? wanted - distinct : 0;
    free(seen);
}

double history_last_pass_loss(const struct history *h)
{
    double sum = 0;
    uint64_t samples = 0;
    for (uint64_t r = h->count; r-- > 0 && h->round[r].pass == h->round[h->count - 1].pass;) {
        sum += h->round[r].loss_sum;
        samples += h->round[r].samples;
    }
    return samples ? sum / (double)samples : NAN;
}

/* ---- manifests ---- */
static void fill_meta(const struct manifest_source *from, const struct checkpoint_entry *e, struct ckpt_meta *m)
{
    const struct msg_plan *plan = from->plan;
    const struct history *h = from->history;
    struct optim_config optim = {.kind = (enum optim_kind)plan->optim_kind, .momentum = plan->momentum};
    uint8_t digest[SHA256_BYTES];
    *m = (struct ckpt_meta){.generation = e->generation, .step = e->step, .seed = plan->seed, .samples_per_pass = plan->samples_per_pass,
                            .pass = (uint32_t)(e->step / per_pass(plan)), .position = e->step % per_pass(plan) * plan->batch, .slot_count = optim_slots(&optim),
                            .model_json = from->declaration->model, .spec_yaml = from->job->resolved_yaml};
    m->view = e->step > 0 && e->step <= h->count ? h->round[e->step - 1].view : 0;
    for (unsigned i = 0; i < h->checkpoint_count; i++)
        if (h->checkpoint[i].step == e->step)
            m->log_position = h->checkpoint[i].position;
    snprintf(m->job_id, sizeof m->job_id, "%s", from->job_id);
    snprintf(m->phase, sizeof m->phase, "train");
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
int history_write_metrics(const struct history *h, const char *path, FILE **out, struct err *err)
{
    if (*out)
        fclose(*out);
    *out = fopen(path, "we");
    if (!*out)
        return err_errno(err, errno, "cannot write %s", path);
    for (uint64_t r = 0; r < h->count; r++)
        if (h->round[r].samples)
            report_metric(*out, r + 1, h->round[r].pass + 1, h->round[r].loss_sum / (double)h->round[r].samples, h->round[r].lr, h->round[r].samples, h->round[r].seconds);
    return 0;
}
