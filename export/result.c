/* RUN/export/result.json: merged into the run's report. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/stage.h"

#define RESULT_MAX (1u << 20)

static void add_files(const char *name, const struct published *f, bool evaluated, double accuracy, struct page *p)
{
    page_add(p, "{\"accuracy\":");
    page_number(p, evaluated, accuracy);
    page_add(p, ",\"bytes\":%lld,\"latency_ms\":", (long long)f->bytes);
    if (f->latency.p50 > 0)
        page_add(p, "{\"batch\":1,\"p50\":%.6g,\"p99\":%.6g,\"threads\":1}", f->latency.p50, f->latency.p99);
    else
        page_add(p, "null");   /* a model without a graph does not run */
    page_add(p, ",\"path\":\"export/%s/%s\",\"sha256\":\"%s\"", name, f->file, f->sha256);
}

static void add_gate(const struct stage *s, struct page *p)
{
    const struct gate *g = &stage_rung(s)->gate;
    page_add(p, "{\"drop\":%.17g,\"low95\":%.17g,\"max_drop\":%.17g,\"passed\":%s,\"rungs\":[", g->drop, g->low95, g->max_drop, g->passed ? "true" : "false");
    for (unsigned i = 0; i < s->ladder.count; i++) {
        const struct rung *r = &s->ladder.rung[i];
        page_add(p, "%s{\"accuracy\":%.17g,\"drop\":%.17g,\"low95\":%.17g,\"name\":", i ? "," : "", r->eval.accuracy, r->gate.drop, r->gate.low95);
        page_quote(p, r->name);
        page_add(p, ",\"passed\":%s}", r->gate.passed ? "true" : "false");
    }
    page_add(p, "]}");
}

double result_sparsity(const struct stage *s)
{
    const struct exported_model *m = &s->model;
    uint64_t zero = 0, total = 0;
    for (uint32_t k = 0; k < m->layout.tensor_count; k++) {
        const struct tensor_desc *t = &m->layout.tensors[k];
        for (uint64_t i = 0; tensor_prunable(t) && i < t->elems; i++)
            zero += m->weights[t->offset + i] == 0;
        total += tensor_prunable(t) ? t->elems : 0;
    }
    return total ? (double)zero / (double)total : NAN;
}

/* {float, quantized, gate}, as the report has it. */
void result_export(const struct stage *s, struct page *p)
{
    page_add(p, "{\"float\":");
    add_files("float", &s->floats, s->evaluated, s->eval.accuracy, p);
    page_add(p, ",\"sparsity\":");
    page_number(p, s->trained.weights != NULL, result_sparsity(s));
    page_add(p, "},\"gate\":");
    if (s->quantized)
        add_gate(s, p);
    else
        page_add(p, "null");
    page_add(p, ",\"quantized\":");
    if (s->integers.done) {
        add_files("quantized", &s->integers, true, stage_rung(s)->eval.accuracy, p);
        page_add(p, ",\"rung\":");
        page_quote(p, stage_rung(s)->name);
        page_add(p, "}");
    } else {
        page_add(p, "null");
    }
    if (s->registered) {
        page_add(p, ",\"registered\":{\"model\":\"%s\",\"registry\":", s->job.spec.registry_model);
        page_quote(p, s->job.spec.registry);
        page_add(p, ",\"version\":%lld}", (long long)s->registered);
    }
    page_add(p, "}");
}

/* What a failed gate was decided on. */
static void add_decided(const struct stage *s, struct page *p)
{
    char eval[SHA256_HEX];
    hex_of(s->eval_data.sha256, SHA256_BYTES, eval);
    page_add(p, "\"gate_failed_on\":\"%llu/%u/%s/%s/%s\"", (unsigned long long)s->step, s->generation, s->exported_sha256, s->spec_sha256, eval);
}

int result_publish(const struct stage *s, struct err *err)
{
    struct page p = {0};
    page_add(&p, "{\"eval_accuracy\":");
    page_number(&p, s->evaluated, s->trained_eval.accuracy);
    page_add(&p, ",\"eval_loss\":");
    page_number(&p, s->evaluated, s->trained_eval.loss);
    page_add(&p, ",\"export\":");
    if (s->floats.done)
        result_export(s, &p);
    else
        page_add(&p, "null");
    page_add(&p, ",");
    if (s->quantized && !stage_passed(s)) {
        add_decided(s, &p);
        page_add(&p, ",");
    }
    page_add(&p, "\"state_sha256\":\"%s\",\"weights_sha256\":\"%s\"}\n", s->state_sha256, s->weights_sha256);
    return page_publish(&p, s->export_dir, "result.json", err);
}

bool result_is_of_failed_gate(const struct stage *s)
{
    char path[PATH_MAX];
    struct err ignored = ERR_INIT;   /* without a result the stage simply does its work */
    struct page want = {0};
    void *text = NULL;
    size_t size;
    add_decided(s, &want);
    bool same = !want.failed && path_in(s->export_dir, "result.json", path, &ignored) == 0 &&
                fs_read_file(&fs_real, path, RESULT_MAX, &text, &size, &ignored) == 0 && strstr(text, want.at) != NULL;
    free(text);
    page_free(&want);
    return same;
}
