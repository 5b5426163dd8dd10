/* The card as one HTML file: nothing is loaded from anywhere; plots are inline SVG. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "export/stage.h"

static const char style[] =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .7em;text-align:right}td:first-child,th:first-child{text-align:left}"
    "svg{display:block;margin:.5em 0;max-width:100%}svg text{font:11px system-ui,sans-serif;fill:#333}code{word-break:break-all}"
    "figure{margin:0}.plots{display:flex;flex-wrap:wrap;gap:1.5em}";

/* ---- plots ---- */
#define CELL 26
#define CLASSES_DRAWN 32u            /* a larger matrix cannot be read; the JSON card has accuracy per class */

static void confusion_svg(const struct confusion *c, const char *title, struct page *p)
{
    unsigned side = c->classes * CELL, room = 40;
    page_add(p, "<figure><figcaption>%s: rows are labels, columns predictions</figcaption><svg width=\"%u\" height=\"%u\" role=\"img\" aria-label=\"%s\">",
             title, side + room, side + room, title);
    for (uint32_t y = 0; y < c->classes; y++) {
        uint64_t sum = 0;
        for (uint32_t x = 0; x < c->classes; x++)
            sum += c->count[(size_t)y * c->classes + x];
        page_add(p, "<text x=\"%u\" y=\"%u\" text-anchor=\"end\">%u</text><text x=\"%u\" y=\"%u\" text-anchor=\"middle\">%u</text>", room - 6,
                 room + y * CELL + 17, y, room + y * CELL + CELL / 2, room - 8, y);
        for (uint32_t x = 0; x < c->classes; x++) {
            uint64_t n = c->count[(size_t)y * c->classes + x];
            double part = sum ? (double)n / (double)sum : 0;
            page_add(p, "<rect x=\"%u\" y=\"%u\" width=\"%d\" height=\"%d\" fill=\"%s\" fill-opacity=\"%.3f\" stroke=\"#ddd\">"
                        "<title>%u taken for %u: %llu</title></rect>",
                     room + x * CELL, room + y * CELL, CELL, CELL, x == y ? "#1a7f37" : "#cf222e", x == y ? part : sqrt(part), y, x, (unsigned long long)n);
        }
    }
    page_add(p, "</svg></figure>");
}

#define HISTOGRAM_BINS 64
static void weights_svg(const struct exported_model *m, struct page *p)
{
    uint64_t bin[HISTOGRAM_BINS] = {0}, top = 1;
    float most = 1e-12f;
    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t t = 0; t < m->layout.tensor_count; t++) {
            const struct tensor_desc *d = &m->layout.tensors[t];
            for (uint64_t i = 0; d->dim_count > 1 && i < d->elems; i++) {
                float w = m->weights[d->offset + i];
                if (!isfinite(w))
                    continue;
                if (pass == 0)
                    most = fmaxf(most, fabsf(w));
                else
                    bin[MIN((unsigned)((w / most + 1) * (HISTOGRAM_BINS / 2)), HISTOGRAM_BINS - 1u)]++;
            }
        }
    for (unsigned i = 0; i < HISTOGRAM_BINS; i++)
        top = MAX(top, bin[i]);
    page_add(p, "<figure><figcaption>Weights of the float model, logarithmic count</figcaption><svg width=\"420\" height=\"170\" role=\"img\" "
                "aria-label=\"histogram of weights\">");
    for (unsigned i = 0; i < HISTOGRAM_BINS; i++) {
        double height = bin[i] ? 140 * log1p((double)bin[i]) / log1p((double)top) : 0;
        page_add(p, "<rect x=\"%u\" y=\"%.1f\" width=\"5\" height=\"%.1f\" fill=\"#0969da\"><title>%llu</title></rect>", 18 + i * 6, 145 - height, height,
                 (unsigned long long)bin[i]);
    }
    page_add(p, "<text x=\"18\" y=\"162\">%.3g</text><text x=\"210\" y=\"162\" text-anchor=\"middle\">0</text>"
                "<text x=\"402\" y=\"162\" text-anchor=\"end\">%.3g</text></svg></figure>",
             (double)-most, (double)most);
}

static void bar(const char *name, double v, double most, unsigned y, const char *unit, struct page *p)
{
    double width = 200 * fmin(1, v / most);   /* a p99 of a busy machine must not flatten the rest */
    page_add(p, "<text x=\"0\" y=\"%u\">%s</text><rect x=\"110\" y=\"%u\" width=\"%.1f\" height=\"16\" fill=\"#8250df\"/><text x=\"%.1f\" y=\"%u\">%.4g %s</text>",
             y + 13, name, y, width, 116 + width, y + 13, v, unit);
}

static void latency_svg(const struct stage *s, struct page *p)
{
    double most = fmax(2 * fmax(s->floats.latency.p50, s->integers.done ? s->integers.latency.p50 : 0), 1e-9);
    page_add(p, "<figure><figcaption>Latency of one sample on one thread</figcaption><svg width=\"420\" height=\"90\" role=\"img\" aria-label=\"latency\">");
    bar("float p50", s->floats.latency.p50, most, 0, "ms", p);
    bar("float p99", s->floats.latency.p99, most, 20, "ms", p);
    if (s->integers.done) {
        bar("quantized p50", s->integers.latency.p50, most, 44, "ms", p);
        bar("quantized p99", s->integers.latency.p99, most, 64, "ms", p);
    }
    page_add(p, "</svg></figure>");
}

/* ---- text ---- */
static void row(const char *name, const struct published *f, bool evaluated, double accuracy, struct page *p)
{
    page_add(p, "<tr><td>%s</td><td>", name);
    if (evaluated)
        page_add(p, "%.4f", accuracy);
    page_add(p, "</td><td>%lld</td><td>%.3f</td><td>%.3f</td></tr>", (long long)f->bytes, f->latency.p50, f->latency.p99);
}

static void ladder(const struct stage *s, struct page *p)
{
    const struct gate *g = &stage_rung(s)->gate;
    page_add(p, "<h2>Gate: %s</h2><p>Paired bootstrap over %llu samples: the quantized model must hold accuracy to within %.4g of the float model, with 95 %% "
                "confidence.</p>"
                "<table><tr><th>way to quantize</th><th>accuracy</th><th>to float</th><th>lower 95 %% bound</th><th>passed</th></tr>",
             g->passed ? "passed" : "failed", (unsigned long long)s->eval_data.count, g->max_drop);
    for (unsigned i = 0; i < s->ladder.count; i++) {
        const struct rung *r = &s->ladder.rung[i];
        page_add(p, "<tr><td>");
        page_escape(p, r->name);
        page_add(p, "</td><td>%.4f</td><td>%+.4f</td><td>%+.4f</td><td>%s</td></tr>", r->eval.accuracy, 0 - r->gate.drop, r->gate.low95, r->gate.passed ? "yes" : "no");
    }
    page_add(p, "</table>");
}

static void lineage(const struct stage *s, struct page *p)
{
    const struct model_config *c = &s->model.config;
    page_add(p, "<h2>Lineage</h2><p>Step %llu, generation %u, seed %llu, batch %u in %u lanes, viaduct " VIADUCT_VERSION "<br>weights_sha256 <code>%s</code>"
                "<br>spec_sha256 <code>%s</code></p>",
             (unsigned long long)s->step, s->generation, (unsigned long long)s->job.spec.seed, s->job.spec.batch, s->job.spec.lanes, s->weights_sha256,
             s->spec_sha256);
    page_add(p, "<h2>Use</h2><p>Input <code>input</code>: float32 N &times; %u &times; %u &times; %u, pixels in [0, 1]; normalization is part of the graph. Output "
                "<code>logits</code>: float32 N &times; %u, classes 0 to %u.</p>",
             c->channels, c->height, c->width, c->classes, c->classes - 1);
}

void card_html(const struct stage *s, const struct confusion *floats, const struct confusion *integers, struct page *p)
{
    page_add(p, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>");
    page_escape(p, s->job.spec.name);
    page_add(p, "</title><style>%s</style></head><body><h1>", style);
    page_escape(p, s->job.spec.name);
    page_add(p, "</h1><table><tr><th>model</th><th>accuracy</th><th>bytes</th><th>p50 ms</th><th>p99 ms</th></tr>");
    row("float", &s->floats, s->evaluated, s->eval.accuracy, p);
    if (s->integers.done)
        row("quantized", &s->integers, true, stage_rung(s)->eval.accuracy, p);
    page_add(p, "</table>");
    if (s->quantized)
        ladder(s, p);
    page_add(p, "<h2>Plots</h2><div class=\"plots\">");
    latency_svg(s, p);
    weights_svg(&s->model, p);
    if (s->evaluated && floats->classes <= CLASSES_DRAWN)
        confusion_svg(floats, "Float model", p);
    if (s->quantized && integers->classes <= CLASSES_DRAWN)
        confusion_svg(integers, "Quantized model", p);
    page_add(p, "</div>");
    lineage(s, p);
    page_add(p, "</body></html>\n");
}
