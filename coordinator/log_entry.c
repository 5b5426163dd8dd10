#include <string.h>

#include "coordinator/log.h"

/* A checkpoint's fields in the order of the struct; parts by their message codec. */
static void code_checkpoint(struct codec *c, struct checkpoint_entry *k)
{
    struct msg_manifest head = {k->generation, k->step, k->site_mask};
    code_manifest(c, &head);
    k->generation = head.generation;
    k->step = head.step;
    k->site_mask = head.site_mask;
    if (c->w)
        put_u8(c->w, k->part_count);
    else
        k->part_count = get_u8(c->r);
    if (k->part_count > SHARDS_LIMIT) {
        k->part_count = 0;
        if (c->r)
            c->r->bad = true;
        else
            c->w->bad = true;
    }
    for (unsigned i = 0; i < k->part_count; i++)
        code_part(c, &k->part[i]);
}

static void code_entry(struct codec *c, struct log_entry *e)
{
    switch (e->kind) {
    case LOG_JOB: code_plan(c, &e->u.job); return;
    case LOG_VIEW: code_view(c, &e->u.view); return;
    case LOG_COMMIT: code_record(c, &e->u.record); return;
    case LOG_CHECKPOINT: code_checkpoint(c, &e->u.checkpoint); return;
    case LOG_END:
        if (c->w) {
            put_u8(c->w, e->u.end.why);
            put_str(c->w, e->u.end.text);
        } else {
            e->u.end.why = get_u8(c->r);
            get_str(c->r, e->u.end.text, sizeof e->u.end.text);
        }
        return;
    }
    if (c->r)
        c->r->bad = true;
    else
        c->w->bad = true;
}

bool log_entry_encode(const struct log_entry *e, struct writer *w)
{
    struct codec c = {.w = w};
    code_entry(&c, (struct log_entry *)(uintptr_t)e);   /* a writing codec changes nothing */
    return !w->bad;
}

bool log_entry_decode(enum log_kind kind, struct reader *r, struct log_entry *e)
{
    struct codec c = {.r = r};
    memset(e, 0, sizeof *e);
    e->kind = kind;
    code_entry(&c, e);
    return reader_done(r);
}
