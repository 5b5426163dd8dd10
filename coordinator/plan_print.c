/* The plan as text for a person and as JSON for scripts. */
#include <inttypes.h>
#include <string.h>

#include "base/base.h"
#include "coordinator/plan.h"

static const char *bytes_text(uint64_t n, char out[32])
{
    if (n < 1000000)
        snprintf(out, 32, "%.1f kB", (double)n / 1e3);
    else if (n < 1000000000)
        snprintf(out, 32, "%.1f MB", (double)n / 1e6);
    else
        snprintf(out, 32, "%.2f GB", (double)n / 1e9);
    return out;
}

static const char *duration_text(double seconds, char out[32])
{
    if (seconds < 120)
        snprintf(out, 32, "%.1f s", seconds);
    else if (seconds < 7200)
        snprintf(out, 32, "%.1f min", seconds / 60);
    else
        snprintf(out, 32, "%.1f h", seconds / 3600);
    return out;
}

static void print_lanes(const struct plan_site *s, FILE *out)
{
    if (s->lanes.lo == s->lanes.hi) {
        fprintf(out, s->later ? "when it joins" : "none");
        return;
    }
    fprintf(out, "%u-%u", s->lanes.lo, s->lanes.hi - 1u);
    for (uint32_t r = 0; r < s->ranks && r < 8 && s->ranks > 1; r++) {
        const struct lane_range *l = &s->rank_lanes[r];
        if (l->lo == l->hi)
            fprintf(out, "%snone", r ? " | " : "  (by rank: ");
        else if (l->hi - l->lo == 1)
            fprintf(out, "%s%u", r ? " | " : "  (by rank: ", l->lo);
        else
            fprintf(out, "%s%u-%u", r ? " | " : "  (by rank: ", l->lo, l->hi - 1u);
    }
    fprintf(out, "%s", s->ranks > 8 ? " | ...)" : s->ranks > 1 ? ")" : "");
}

static void print_nodes(const struct plan_site *s, FILE *out)
{
    char memory[32], lanes[40];
    for (uint32_t n = 0; n < s->nodes && s->nodes > 1; n++) {
        unsigned from = s->first_rank[n], end = s->first_rank[n + 1], lo = s->rank_lanes[from].lo, hi = s->rank_lanes[end - 1].hi;
        snprintf(lanes, sizeof lanes, lo < hi ? "lanes %u-%u" : "no lanes", lo, hi - 1);
        fprintf(out, "    node %-4u ranks %u-%u, %s, %s%s\n", n, from, end - 1, lanes, bytes_text(s->node_memory_bytes[n], memory),
                n == 0 ? "; launches the shards, publishes and exports" : "");
    }
}

static void print_shards(const struct run_plan *p, FILE *out)
{
    char bytes[32], memory[32];
    fprintf(out, "  %-10s %6s %9s %9s  %s\n", "shard", "blocks", "bytes", "memory", p->embedded ? "held by" : "primary, copies");
    for (uint32_t s = 0; s < p->shard_count && s < 8; s++) {
        const struct plan_shard *shard = &p->shard[s];
        fprintf(out, "  %-10u %6u %9s %9s  ", s, shard->blocks, bytes_text(shard->bytes, bytes), bytes_text(shard->memory_bytes, memory));
        for (unsigned k = 0; k < shard->copy_count; k++)
            fprintf(out, p->embedded ? "%srank %s/%u" : "%s%s/%u", k ? ", " : "", p->site[p->slot_site[shard->slot[k]]].name, shard->slot[k]);
        fprintf(out, "\n");
    }
    if (p->shard_count > 8)
        fprintf(out, "  ... and %u more\n", p->shard_count - 8);
}

void run_plan_print(const struct run_plan *p, FILE *out)
{
    char a[32], b[32];
    fprintf(out, "plan of %s: %" PRIu64 " steps of %u samples (%" PRIu64 " a pass), %" PRIu64 " parameters\n", p->name, p->steps, p->batch, p->samples_per_pass,
            p->parameters);
    fprintf(out, "  phases: train, steps 1-%" PRIu64, p->train_steps);
    if (p->prune_steps)
        fprintf(out, "; prune and fine-tune, steps %" PRIu64 "-%" PRIu64 " (%.4g %% of %" PRIu64 " weights become zero)", p->train_steps + 1, p->steps, 100 * p->sparsity,
                p->prunable);
    fprintf(out, "\n  machine: %s, %u cores, %.1f GB\n", p->machine.cpu_name, p->machine.cores, (double)p->machine.memory_bytes / 1e9);
    fprintf(out, "  %-10s %-7s %5s %7s %9s  %s\n", "site", "via", "ranks", "threads", "memory", "lanes");
    for (uint32_t i = 0; i < p->site_count; i++) {
        const struct plan_site *s = &p->site[i];
        fprintf(out, "  %-10s %-7s %5u %7u %9s  ", s->name, s->via, s->ranks, s->threads, bytes_text(s->memory_per_rank_bytes, a));
        print_lanes(s, out);
        fprintf(out, "\n");
        print_nodes(s, out);
    }
    print_shards(p, out);
    fprintf(out, "  step: %.2f ms predicted, %.0f samples/s, %s in all\n", p->step_ms, p->batch / p->step_ms * 1e3,
            duration_text(p->step_ms / 1e3 * (double)p->steps, a));
    fprintf(out, "  between sites: %s a step; memory of everything: %s\n", bytes_text(p->wan.contributed + p->wan.replicated + p->wan.pulled, a),
            bytes_text(p->memory_bytes, b));
    fprintf(out, "why:\n");
    for (unsigned i = 0; i < p->reason_count; i++)
        fprintf(out, "  - %s\n", p->reason[i]);
}

/* ---- JSON ---- */
static void quoted(FILE *out, const char *text)
{
    char buffer[2 * PLAN_REASON_TEXT + 16];
    json_quote(buffer, sizeof buffer, text);
    fputs(buffer, out);
}

static void json_site(const struct plan_site *s, FILE *out)
{
    fprintf(out, "{\"version\":1,\"name\":");
    quoted(out, s->name);
    fprintf(out, ",\"via\":\"%s\",\"joins_later\":%s,\"ranks\":%u,\"threads\":%u,\"lanes\":[%u,%u],\"rank_lanes\":[", s->via, s->later ? "true" : "false", s->ranks, s->threads, s->lanes.lo, s->lanes.hi);
    for (uint32_t r = 0; r < s->ranks; r++)
        fprintf(out, "%s[%u,%u]", r ? "," : "", s->rank_lanes[r].lo, s->rank_lanes[r].hi);
    fprintf(out, "],\"memory_per_rank_bytes\":%" PRIu64 ",\"nodes\":[", s->memory_per_rank_bytes);
    for (uint32_t n = 0; n < s->nodes; n++)
        fprintf(out, "%s{\"ranks\":[%u,%u],\"memory_bytes\":%" PRIu64 "}", n ? "," : "", s->first_rank[n], s->first_rank[n + 1], s->node_memory_bytes[n]);
    fprintf(out, "]}");
}

static void json_copy(const struct run_plan *p, uint8_t slot, FILE *out)
{
    fprintf(out, "{\"site\":");
    quoted(out, p->site[p->slot_site[slot]].name);
    fprintf(out, ",\"slot\":%u}", slot);
}

static void json_shard(const struct run_plan *p, uint32_t index, FILE *out)
{
    const struct plan_shard *s = &p->shard[index];
    fprintf(out, "{\"shard\":%u,\"blocks\":%u,\"bytes\":%" PRIu64 ",\"memory_bytes\":%" PRIu64 ",\"primary\":", index, s->blocks, s->bytes, s->memory_bytes);
    json_copy(p, s->slot[0], out);
    fprintf(out, ",\"replicas\":[");
    for (unsigned k = 1; k < s->copy_count; k++) {
        fprintf(out, "%s", k > 1 ? "," : "");
        json_copy(p, s->slot[k], out);
    }
    fprintf(out, "]}");
}

static void json_costs(const struct run_plan *p, FILE *out)
{
    uint32_t ranks = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        ranks += p->site[i].later ? 0 : p->site[i].ranks;
    fprintf(out, ",\"phases\":[{\"name\":\"train\",\"first_step\":1,\"last_step\":%" PRIu64 "}", p->train_steps);
    if (p->prune_steps)
        fprintf(out, ",{\"name\":\"prune\",\"first_step\":%" PRIu64 ",\"last_step\":%" PRIu64 ",\"sparsity\":%.6g,\"weights\":%" PRIu64 "}", p->train_steps + 1, p->steps,
                p->sparsity, p->prunable);
    fprintf(out, "],\"steps\":%" PRIu64 ",\"samples_per_pass\":%" PRIu64 ",\"parameters\":%" PRIu64 ",\"memory_bytes\":%" PRIu64 ",\"step_seconds_predicted\":%.6f",
            p->steps, p->samples_per_pass, p->parameters, p->memory_bytes, p->step_ms / 1e3);
    fprintf(out, ",\"step_parts_ms\":{\"compute\":%.4f,\"bytes\":%.4f,\"optimizer\":%.4f,\"messages\":%.4f}", p->compute_ms, p->link_ms, p->apply_ms, p->hops_ms);
    fprintf(out, ",\"probe\":{\"lane_ms\":%.4f,\"lane_samples\":%u,\"at_once\":%u,\"optimizer_ms\":%.4f,\"link_bytes_per_second\":%.0f}", p->probe.lane_ms,
            p->probe.lane_samples, p->probe.at_once, p->probe.apply_ms, p->probe.link_bytes_per_second);
    fprintf(out, ",\"wan_bytes_per_step\":%" PRIu64 ",\"wan\":{\"contributed\":%" PRIu64 ",\"replicated\":%" PRIu64 ",\"pulled\":%" PRIu64 "}",
            p->wan.contributed + p->wan.replicated + p->wan.pulled, p->wan.contributed, p->wan.replicated, p->wan.pulled);
    fprintf(out, ",\"total_seconds_predicted\":%.3f,\"parallel\":{\"data\":%u,\"tensor\":1,\"pipeline\":1,\"zero\":1}", p->step_ms / 1e3 * (double)p->steps, ranks);
}

int run_plan_print_json(const struct run_plan *p, FILE *out)
{
    fprintf(out, "{\"name\":");
    quoted(out, p->name);
    fprintf(out, ",\"machine\":{\"cpu\":");
    quoted(out, p->machine.cpu_name);
    fprintf(out, ",\"cores\":%u,\"memory_bytes\":%" PRIu64 "},\"sites\":[", p->machine.cores, p->machine.memory_bytes);
    for (uint32_t i = 0; i < p->site_count; i++) {
        fprintf(out, "%s", i ? "," : "");
        json_site(&p->site[i], out);
    }
    fprintf(out, "],\"shards\":[");
    for (uint32_t s = 0; s < p->shard_count; s++) {
        fprintf(out, "%s", s ? "," : "");
        json_shard(p, s, out);
    }
    fprintf(out, "]");
    json_costs(p, out);
    fprintf(out, ",\"reasons\":[");
    for (unsigned i = 0; i < p->reason_count; i++) {
        fprintf(out, "%s", i ? "," : "");
        quoted(out, p->reason[i]);
    }
    fprintf(out, "]}\n");
    return ferror(out) ? ERR_IO : 0;
}
