/* topology.json: who holds what, and what each site sent to the others. For the run page and for whoever draws a run. */
#include "report/report.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static json_t *sites_of(const struct topology *t)
{
    json_t *sites = json_array();
    for (unsigned i = 0; i < t->site_count; i++)
        json_array_append_new(sites, json_pack("{s:s, s:i, s:I}", "name", t->site[i].name, "ranks", (int)t->site[i].ranks, "wan_sent_bytes",
                                               (json_int_t)t->site[i].wan_sent_bytes));
    return sites;
}

static json_t *shards_of(const struct topology *t)
{
    json_t *shards = json_array();
    for (unsigned s = 0; s < t->shard_count; s++) {
        json_t *copies = json_array();
        for (unsigned i = 0; i < t->shard[s].copy_count; i++)
            json_array_append_new(copies, json_pack("{s:s, s:i, s:b}", "site", t->site[t->shard[s].copy[i].site].name, "slot", (int)t->shard[s].copy[i].slot,
                                                    "primary", (int)t->shard[s].copy[i].primary));
        json_array_append_new(shards, json_pack("{s:i, s:o}", "shard", (int)s, "copies", copies));
    }
    return shards;
}

int topology_write(const char *run_dir, const struct topology *t, struct err *err)
{
    char path[700];
    json_t *all = json_pack("{s:b, s:o, s:o}", "embedded", (int)t->embedded, "sites", sites_of(t), "shards", shards_of(t));
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    if (!text)
        return err_set(err, ERR_NO_MEMORY, "no memory for the topology");
    snprintf(path, sizeof path, "%s/topology.json", run_dir);
    int rc = fs_publish_file(&fs_real, path, text, strlen(text), err);
    free(text);
    return rc;
}

uint64_t topology_sent_before(const char *run_dir, const char *site)
{
    char path[700];
    size_t i;
    json_t *one;
    uint64_t bytes = 0;
    snprintf(path, sizeof path, "%s/topology.json", run_dir);
    json_t *old = json_load_file(path, 0, NULL);
    json_array_foreach(json_object_get(old, "sites"), i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, site) == 0)
            bytes = (uint64_t)json_integer_value(json_object_get(one, "wan_sent_bytes"));
    }
    json_decref(old);
    return bytes;
}
