/* The model card: what the model is, where it comes from and how well it does, for programs (JSON), repositories (Markdown) and people (HTML). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/device.h"
#include "export/stage.h"

#ifdef VIADUCT_COMMIT
#define COMMIT "\"" VIADUCT_COMMIT "\""
#else
#define COMMIT "null"
#endif

/* ---- what is counted ---- */
static int count_confusion(const struct stage *s, const uint8_t *predicted, struct confusion *out, struct err *err)
{
    *out = (struct confusion){.classes = s->model.config.classes};
    out->count = calloc((size_t)out->classes * out->classes, sizeof *out->count);
    if (!out->count)
        return err_set(err, ERR_NO_MEMORY, "no memory for a confusion matrix of %u classes", out->classes);
    for (uint64_t i = 0; predicted && i < s->eval_data.count; i++)
        out->count[(size_t)s->eval_data.labels[i] * out->classes + predicted[i]]++;
    return 0;
}

static void class_accuracy(const uint8_t *labels, const uint8_t *predicted, uint64_t count, uint32_t class, struct page *p)
{
    uint64_t all = 0, right = 0;
    for (uint64_t i = 0; i < count; i++) {
        all += labels[i] == class;
        right += labels[i] == class && predicted[i] == class;
    }
    page_number(p, all > 0, all ? (double)right / (double)all : 0);
}

static void add_classes(const struct stage *s, const uint8_t *predicted, struct page *p)
{
    page_add(p, "[");
    for (uint32_t c = 0; c < s->model.config.classes; c++) {
        page_add(p, "%s", c ? "," : "");
        class_accuracy(s->eval_data.labels, predicted, s->eval_data.count, c, p);
    }
    page_add(p, "]");
}

/* ---- JSON ---- */
static void add_lineage(const struct stage *s, struct page *p)
{
    char eval[SHA256_HEX], train[SHA256_HEX];
    hex_of(s->eval_data.sha256, SHA256_BYTES, eval);
    hex_of(s->train_sha256, SHA256_BYTES, train);
    page_add(p, "{\"batch\":%u,\"commit\":" COMMIT ",\"data_sha256\":%s%s%s,\"eval_sha256\":%s%s%s,\"exported_sha256\":\"%s\",\"generation\":%u,\"job\":\"%s\",\"lanes\":%u,\"seed\":%llu,\"spec_sha256\":\"%s\",\"state_sha256\":\"%s\",\"step\":%llu,"
                "\"train_sha256\":%s%s%s,\"viaduct\":\"" VIADUCT_VERSION "\",\"weights_sha256\":\"%s\"}",
             s->job.spec.batch, *s->data_sha256 ? "\"" : "", *s->data_sha256 ? s->data_sha256 : "null", *s->data_sha256 ? "\"" : "", s->evaluated ? "\"" : "", s->evaluated ? eval : "null", s->evaluated ? "\"" : "", s->exported_sha256, s->generation, s->job_id, s->job.spec.lanes,
             (unsigned long long)s->job.spec.seed, s->spec_sha256, s->state_sha256, (unsigned long long)s->step, s->quantized ? "\"" : "",
             s->quantized ? train : "null", s->quantized ? "\"" : "", s->weights_sha256);
}

static void add_quantization(const struct stage *s, struct page *p)
{
    const struct quantized_model *m = s->ladder.best.quantized;
    const char *comma = "";
    page_add(p, "{\"activations\":\"uint8, one scale a tensor\",\"bias\":\"int32\",\"calibration_images\":%llu,\"float_layers\":[",
             (unsigned long long)s->ladder.images);
    for (uint32_t i = 0; i < m->layer_count; i++)
        if (!m->layer[i].on) {
            page_add(p, "%s", comma);
            page_quote(p, quantized_layer_name(m, i));
            comma = ",";
        }
    page_add(p, "],\"per_class_accuracy\":");
    add_classes(s, s->ladder.predicted, p);
    page_add(p, ",\"scheme\":\"static\",\"weights\":\"int8 symmetric, one scale an output channel\"}");
}

void card_json(const struct stage *s, struct page *p)
{
    char labels[4096], config[4096];
    struct machine machine;
    struct err ignored = ERR_INIT;   /* a card without the CPU's name is still one */
    const struct model_config *c = &s->model.config;
    model_labels_print(c, labels, sizeof labels);
    model_config_print(c, config, sizeof config);
    page_add(p, "{\"name\":");
    page_quote(p, s->job.spec.name);
    page_add(p, ",\"model\":%s,\"labels\":%s,\"input\":{\"name\":\"input\",\"type\":\"float32\",\"shape\":[\"N\",%u,%u,%u],\"range\":[0,1],"
                "\"normalization\":\"part of the graph\"},\"output\":{\"name\":\"logits\",\"type\":\"float32\",\"shape\":[\"N\",%u]},\"export\":",
             config, labels, c->channels, c->height, c->width, c->classes);
    result_export(s, p);
    page_add(p, ",\"eval_samples\":");
    page_number(p, s->evaluated, (double)s->eval_data.count);
    page_add(p, ",\"per_class_accuracy\":");
    if (s->evaluated)
        add_classes(s, s->with_float, p);
    else
        page_add(p, "null");
    page_add(p, ",\"quantization\":");
    if (s->quantized)
        add_quantization(s, p);
    else
        page_add(p, "null");
    page_add(p, ",\"cpu\":");
    page_quote(p, machine_probe(&machine, &ignored) == 0 ? machine.cpu_name : "");
    page_add(p, ",\"lineage\":");
    add_lineage(s, p);
    page_add(p, "}\n");
}

/* ---- Markdown ---- */
static void markdown_row(const char *name, const struct published *f, bool evaluated, double accuracy, struct page *p)
{
    page_add(p, "| %s | ", name);
    if (evaluated)
        page_add(p, "%.4f", accuracy);
    page_add(p, " | %lld | %.3f | %.3f | `%s/%s` |\n", (long long)f->bytes, f->latency.p50, f->latency.p99, name, f->file);
}

void card_markdown(const struct stage *s, struct page *p)
{
    const struct model_config *c = &s->model.config;
    page_add(p, "# %s\n\nInput `input`: float32 N x %u x %u x %u, pixels in [0, 1]; normalization is part of the graph. Output `logits`: float32 N x %u, "
                "classes 0 to %u.\n\n",
             s->job.spec.name, c->channels, c->height, c->width, c->classes, c->classes - 1);
    page_add(p, "| model | accuracy | bytes | p50 ms | p99 ms | file |\n| --- | --- | --- | --- | --- | --- |\n");
    markdown_row("float", &s->floats, s->evaluated, s->eval.accuracy, p);
    if (s->integers.done)
        markdown_row("quantized", &s->integers, true, stage_rung(s)->eval.accuracy, p);
    page_add(p, "\nAccuracy over %llu samples; latency of one sample on one thread.\n", (unsigned long long)s->eval_data.count);
    if (s->job.spec.prune.sparsity > 0 && s->trained.weights)
        page_add(p, "Pruned: %.0f %% of the weights of convolutions and dense layers are zero.\n", 100 * result_sparsity(s));
    if (s->quantized) {
        const struct gate *g = &stage_rung(s)->gate;
        page_add(p, "\n## Quantization\n\nStatic int8 (QDQ): %s. Gate %s: accuracy %+.4f, lower 95 %% bound %+.4f, allowed %+.4f.\n\n"
                    "| way | accuracy | to float | lower 95 %% | passed |\n| --- | --- | --- | --- | --- |\n",
                 stage_rung(s)->name, g->passed ? "passed" : "failed", 0 - g->drop, g->low95, 0 - g->max_drop);
        for (unsigned i = 0; i < s->ladder.count; i++) {
            const struct rung *r = &s->ladder.rung[i];
            page_add(p, "| %s | %.4f | %+.4f | %+.4f | %s |\n", r->name, r->eval.accuracy, 0 - r->gate.drop, r->gate.low95, r->gate.passed ? "yes" : "no");
        }
    }
    page_add(p, "\n## Lineage\n\nStep %llu, generation %u, seed %llu. weights_sha256 `%s`, spec_sha256 `%s`, viaduct " VIADUCT_VERSION ".\n",
             (unsigned long long)s->step, s->generation, (unsigned long long)s->job.spec.seed, s->weights_sha256, s->spec_sha256);
}

/* ---- files ---- */
static int put_all(const struct stage *s, const char *dir, const struct confusion *floats, const struct confusion *integers, struct err *err)
{
    struct page json = {0}, markdown = {0}, html = {0};
    card_json(s, &json);
    TRY(page_publish(&json, dir, "model-card.json", err));
    card_markdown(s, &markdown);
    TRY(page_publish(&markdown, dir, "model-card.md", err));
    card_html(s, floats, integers, &html);
    return page_publish(&html, dir, "model-card.html", err);
}

int card_write(const struct stage *s, struct err *err)
{
    char dir[PATH_MAX];
    struct confusion floats = {0}, integers = {0};
    TRY(path_in(s->attempt_dir, "card", dir, err));
    TRY(fs_mkdirs(&fs_real, dir, err));
    int rc = count_confusion(s, s->with_float, &floats, err);
    if (rc == 0)
        rc = count_confusion(s, s->ladder.predicted, &integers, err);
    if (rc == 0)
        rc = put_all(s, dir, &floats, &integers, err);
    free(floats.count);
    free(integers.count);
    return rc;
}
