/* Rules over several keys; both ends of a conflict are named with their lines. */
#include "jobs/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "jobs/keys.h"

#define DOOR_HOST_MAX 60             /* with a process's name behind it, it is an address in messages */
#define HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"

/* ---- reading by path; defaults come from the table ---- */
static struct tree *at(const struct tree *root, const char *path)
{
    char copy[128], *rest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    const struct tree *here = root;
    for (char *part; here && (part = strsep(&rest, "."));)
        here = tree_get(here, part);
    return here && !tree_is_null(here) ? (struct tree *)(uintptr_t)here : NULL;
}

/* The number, or `fallback` when there is none or it was refused: later rules work with numbers in their limits only. */
static double bounded(const struct tree *t, const char *key_path, double fallback)
{
    const struct key *k = key_find(key_path);
    double v;
    bool good = t && (scalar_number(t, &v) || scalar_steps(t, &v)) && v >= k->min && v <= k->max && !(k->exclusive_min && v == k->min);
    return good ? v : fallback;
}

static double number_at(const struct tree *root, const char *path)
{
    const struct key *k = key_find(path);
    return bounded(at(root, path), path, k->fallback ? strtod(k->fallback, NULL) : 0);
}

static const char *text_at(const struct tree *root, const char *path)
{
    const struct tree *t = at(root, path);
    return t && t->kind == TREE_SCALAR ? t->text : key_find(path)->fallback;
}

static const char *address_of(const struct tree *t) { return t && scalar_address(t) ? t->text : NULL; }

static bool bool_at(const struct tree *root, const char *path)
{
    const struct tree *t = at(root, path);
    bool v;
    return t && scalar_bool(t, &v) ? v : strcmp(key_find(path)->fallback, "true") == 0;
}

static uint32_t ints_at(const struct tree *root, const char *path, uint32_t *out, uint32_t max)
{
    const struct tree *t = at(root, path);
    double v;
    const struct tree *const *items = t && t->kind == TREE_LIST ? (const struct tree *const *)t->item : &t;
    uint32_t count = !t ? 0 : t->kind == TREE_LIST ? t->count : 1, n = 0;
    for (uint32_t i = 0; i < count && n < max; i++)
        if (scalar_number(items[i], &v) && v >= 1 && v <= 65536)
            out[n++] = (uint32_t)v;
    return n;
}

const char *line_of(struct job *job, const struct tree *t)
{
    return t && t->line ? job_text(job, "line %u", t->line) : t ? "the command line" : "the default";
}

/* ---- sites ---- */
static const char *const via_words[] = {[VIA_LOCAL] = "local", [VIA_MPIRUN] = "mpirun", [VIA_SLURM] = "slurm", [VIA_JOIN] = "join"};

const char *job_via_word(enum job_via via) { return via_words[via]; }

static enum job_via via_of(const struct tree *t)
{
    for (unsigned i = 0; t && t->kind == TREE_SCALAR && i < ARRAY_LEN(via_words); i++)
        if (strcmp(t->text, via_words[i]) == 0)
            return (enum job_via)i;
    return VIA_LOCAL;
}

static void read_sites(struct job *job, const struct tree *root)
{
    struct job_spec *s = &job->spec;
    const struct tree *list = at(root, "sites");
    if (!list || list->kind != TREE_LIST) {
        s->site_count = 1;
        s->sites[0] = (struct job_site){.name = "local", .via = VIA_LOCAL, .ranks = 1, .threads = 1, .ps_shards = 0, .nodes = 1, .reads_data = true};
        return;
    }
    s->site_count = MIN(list->count, (uint32_t)SITES_MAX);
    for (uint32_t i = 0; i < s->site_count; i++) {
        const struct tree *t = list->item[i], *shards = tree_get(t, "ps_shards"), *name = tree_get(t, "name"), *via = tree_get(t, "via");
        struct job_site *site = &s->sites[i];
        *site = (struct job_site){.name = name && name->kind == TREE_SCALAR ? name->text : "", .ranks = 1, .threads = 1, .nodes = 1, .reads_data = true};
        site->via = via_of(via);
        site->ranks = (uint32_t)bounded(tree_get(t, "ranks"), "sites[].ranks", 1);
        site->threads = (uint32_t)bounded(tree_get(t, "threads"), "sites[].threads", 1);
        site->nodes = (uint32_t)bounded(tree_get(t, "nodes"), "sites[].nodes", 1);
        site->door = address_of(tree_get(t, "door"));
        site->door_address = address_of(tree_get(t, "door_address"));
        site->ps_shards = (uint32_t)bounded(shards, "sites[].ps_shards", list->count > 1 ? 1 : 0);
    }
}

/* Ranks lie on the hosts that Slurm gives; and all hosts of a site dial the coordinator. */
static void check_nodes(struct job *job, const struct tree *root)
{
    static const char *const why[] = {
        [VIA_LOCAL] = "a site that is `via: local` (%s) is on this host alone; several hosts are a site that is `via: slurm`",
        [VIA_MPIRUN] = "mpirun (%s) puts ranks on the hosts that it was given; leave nodes out",
        [VIA_JOIN] = "a site that is `via: join` (%s) is one machine in this version",
    };
    struct job_spec *s = &job->spec;
    const struct tree *list = at(root, "sites"), *listen = at(root, "coordinator.listen");
    for (uint32_t i = 0; list && list->kind == TREE_LIST && i < s->site_count; i++) {
        const struct job_site *site = &s->sites[i];
        const struct tree *t = list->item[i], *nodes = tree_get(t, "nodes");
        const char *path = job_text(job, "sites[%u].nodes", i);
        if (site->nodes <= 1)
            continue;
        if (site->via != VIA_SLURM)
            problem_at(job, nodes, path, NULL, why[site->via], line_of(job, tree_get(t, "via")));
        else if (site->ranks < site->nodes)
            problem_at(job, nodes, path, NULL, "%u nodes (%s) need at least as many ranks, and the site's ranks are %u (%s)", site->nodes, line_of(job, nodes),
                       site->ranks, line_of(job, tree_get(t, "ranks")));
        else if (listen && s->listen && (strncmp(s->listen, "127.", 4) == 0 || strncmp(s->listen, "localhost:", 10) == 0))
            problem_at(job, listen, "coordinator.listen", NULL, "all nodes of site '%.60s' (%s) dial the coordinator, and '%.60s' is reached on its own host only; leave it out",
                       site->name, line_of(job, nodes), s->listen);
    }
}

/* The port that machines which join are told must be the one that is listened at, or one that leads to it. */
static void check_listen(struct job *job, const struct tree *root, bool visited)
{
    const struct job_spec *s = &job->spec;
    const struct tree *listen = at(root, "coordinator.listen"), *address = at(root, "coordinator.address");
    const char *here = s->listen ? strrchr(s->listen, ':') : NULL, *there = s->address ? strrchr(s->address, ':') : NULL;
    if (visited && !s->coordinator_door && here && there && strcmp(here, ":0") == 0)
        problem_at(job, listen ? listen : address, listen ? "coordinator.listen" : "coordinator.address", NULL,
                   "coordinator.listen is '%.60s' (%s), a free port, which '%.60s' (%s) cannot lead to; name the port: listen: \"0.0.0.0%.20s\"", s->listen,
                   line_of(job, listen), s->address, line_of(job, address), there);
}

static void check_sites(struct job *job, const struct tree *root)
{
    struct job_spec *s = &job->spec;
    const struct tree *list = at(root, "sites");
    uint32_t ranks = 0, stay = 0;
    if (list && list->kind != TREE_LIST)
        return;
    for (uint32_t i = 0; i < s->site_count; i++) {
        const struct tree *t = list ? list->item[i] : NULL, *name = t ? tree_get(t, "name") : NULL, *shards = t ? tree_get(t, "ps_shards") : NULL;
        ranks += s->sites[i].ranks;
        for (uint32_t k = 0; k < i; k++)
            if (name && *s->sites[i].name && strcmp(s->sites[k].name, s->sites[i].name) == 0)
                problem_at(job, name, job_text(job, "sites[%u].name", i), NULL, "'%s' is the name of sites[%u] too (%s); names of sites must differ",
                           s->sites[i].name, k, line_of(job, tree_get(list->item[k], "name")));
        stay += s->sites[i].via != VIA_JOIN;
        if (s->sites[i].via == VIA_JOIN && !at(root, "coordinator.address"))
            problem_at(job, tree_get(t, "via"), job_text(job, "sites[%u].via", i), NULL,
                       "machines that join dial the coordinator: give coordinator.address, HOST:PORT as they see it, and coordinator.listen on that port (%s)",
                       line_of(job, at(root, "coordinator")));
        if (s->site_count > 1 && s->sites[i].ps_shards == 0 && s->sites[i].via != VIA_JOIN)
            problem_at(job, shards ? shards : t, job_text(job, "sites[%u].ps_shards", i), NULL,
                       "a job over %u sites (%s) needs at least one parameter-server shard at each", s->site_count, line_of(job, list));
        if (s->site_count == 1 && s->sites[i].ps_shards > 0)
            problem_at(job, shards, job_text(job, "sites[%u].ps_shards", i), NULL, "shards at the only site are not in this version; leave it out or use 0");
    }
    check_listen(job, root, stay < s->site_count);
    if (!stay && s->site_count)
        problem_at(job, list, "sites", NULL, "all sites join later; at least one must be there from the start, to hold the model");
    const struct tree *lanes = at(root, "train.lanes");
    if (ranks > s->lanes)
        problem_at(job, lanes ? lanes : list, lanes ? "train.lanes" : "sites", NULL, "%u ranks over all sites (%s) need at least as many lanes, and train.lanes is %u (%s)",
                   ranks, line_of(job, list), s->lanes, line_of(job, lanes));
    if (s->lanes > s->batch)
        problem_at(job, lanes, "train.lanes", NULL, "%u lanes (%s) need a batch of at least as many samples, and train.batch is %u (%s)", s->lanes,
                   line_of(job, lanes), s->batch, line_of(job, at(root, "train.batch")));
    const struct tree *replicas = at(root, "checkpoint.replicas");
    if (replicas && s->checkpoint_replicas > s->site_count)
        problem_at(job, replicas, "checkpoint.replicas", NULL, "%u replicas need as many sites, and there are %u (%s)", s->checkpoint_replicas, s->site_count,
                   line_of(job, list));
}

static void check_residency(struct job *job, const struct tree *root)
{
    const struct tree *list = at(root, "data.residency");
    const char *names[SITES_MAX];
    struct job_spec *s = &job->spec;
    if (!list || list->kind != TREE_LIST)
        return;
    for (uint32_t i = 0; i < s->site_count; i++) {
        names[i] = s->sites[i].name;
        s->sites[i].reads_data = false;
    }
    for (uint32_t k = 0; k < list->count; k++) {
        bool known = false;
        for (uint32_t i = 0; i < s->site_count; i++)
            if (list->item[k]->kind == TREE_SCALAR && strcmp(list->item[k]->text, s->sites[i].name) == 0)
                known = s->sites[i].reads_data = true;
        if (!known && list->item[k]->kind == TREE_SCALAR) {
            const char *near = nearest_name(list->item[k]->text, names, s->site_count);
            problem_at(job, list->item[k], job_text(job, "data.residency[%u]", k), near ? job_text(job, "did you mean '%s'?", near) : NULL,
                       "there is no site named '%.60s'", list->item[k]->text);
        }
    }
    for (uint32_t i = 0; i < s->site_count; i++)
        if (!s->sites[i].reads_data)
            problem_at(job, list, "data.residency", NULL, "site '%s' may not read the data, so it can hold no lanes; ranks without data are not in this version",
                       s->sites[i].name);
}

/* ---- the rest ---- */
static void read_model(struct job *job, const struct tree *root)
{
    struct job_model *m = &job->spec.model;
    const struct tree *channels = at(root, "model.channels"), *norm = at(root, "model.norm");
    const char *family = text_at(root, "model.family");
    m->family = family && strcmp(family, "mlp") == 0 ? FAMILY_MLP : FAMILY_CNN;
    m->classes = (uint32_t)number_at(root, "model.classes");
    m->input_dim_count = ints_at(root, "model.input", m->input, 3);
    m->channel_count = ints_at(root, "model.channels", m->channels, MODEL_CHANNELS_MAX);
    m->hidden_count = ints_at(root, "model.hidden", m->hidden, MODEL_CHANNELS_MAX);
    m->batch_norm = m->family == FAMILY_CNN && strcmp(text_at(root, "model.norm"), "batch") == 0;
    if (!m->hidden_count)
        m->hidden[m->hidden_count++] = 128;
    if (m->family == FAMILY_CNN && !channels) {
        m->channels[m->channel_count++] = 24;
        m->channels[m->channel_count++] = 48;
    }
    for (unsigned i = 0; family && m->family == FAMILY_MLP && i < 2; i++) {
        const struct tree *t = i ? norm : channels;
        if (t)
            problem_at(job, t, i ? "model.norm" : "model.channels", NULL, "this key belongs to family cnn, and model.family is mlp (%s)",
                       line_of(job, at(root, "model.family")));
    }
    uint32_t side = m->input_dim_count == 3 ? MIN(m->input[1], m->input[2]) : 0;
    if (m->family == FAMILY_CNN && side && side >> m->channel_count == 0)
        problem_at(job, channels ? channels : at(root, "model.input"), "model.channels", NULL,
                   "%u stages halve the image %u times, and model.input is %u x %u (%s)", m->channel_count, m->channel_count, m->input[1], m->input[2],
                   line_of(job, at(root, "model.input")));
    if (m->input_dim_count == 3 && m->input[0] > 4)
        problem_at(job, at(root, "model.input"), "model.input", NULL, "%u channels; 1 to 4 are allowed", m->input[0]);
}

static void read_optimizer(struct job *job, const struct tree *root)
{
    static const char *const adamw_only[] = {"train.optimizer.beta1", "train.optimizer.beta2", "train.optimizer.eps"};
    static const char *const sgd_only[] = {"train.optimizer.momentum", "train.optimizer.nesterov"};
    struct job_optim *o = &job->spec.optimizer;
    const char *schedule = text_at(root, "train.optimizer.schedule");
    o->name = strcmp(text_at(root, "train.optimizer.name"), "sgd") == 0 ? OPTIMIZER_SGD : OPTIMIZER_ADAMW;
    o->lr = number_at(root, "train.optimizer.lr");
    o->weight_decay = number_at(root, "train.optimizer.weight_decay");
    o->beta1 = number_at(root, "train.optimizer.beta1");
    o->beta2 = number_at(root, "train.optimizer.beta2");
    o->eps = number_at(root, "train.optimizer.eps");
    o->momentum = number_at(root, "train.optimizer.momentum");
    o->nesterov = bool_at(root, "train.optimizer.nesterov");
    o->schedule = strcmp(schedule, "linear") == 0   ? SCHEDULE_LINEAR
                  : strcmp(schedule, "cosine") == 0 ? SCHEDULE_COSINE
                  : strcmp(schedule, "step") == 0   ? SCHEDULE_STEP
                                                    : SCHEDULE_CONSTANT;
    o->final = number_at(root, "train.optimizer.final");
    o->step_factor = number_at(root, "train.optimizer.factor");
    o->step_every = (uint64_t)number_at(root, "train.optimizer.every");
    o->warmup = (uint64_t)number_at(root, "train.optimizer.warmup");
    o->clip = number_at(root, "train.optimizer.clip");
    bool adamw = o->name == OPTIMIZER_ADAMW;
    for (unsigned i = 0; i < (adamw ? 2 : 3); i++) {
        const char *path = adamw ? sgd_only[i] : adamw_only[i];
        if (at(root, path))
            problem_at(job, at(root, path), path, NULL, "this key belongs to %s, and train.optimizer.name is %s (%s)", adamw ? "sgd" : "adamw",
                       adamw ? "adamw" : "sgd", line_of(job, at(root, "train.optimizer.name")));
    }
    if (!adamw && o->nesterov && o->momentum == 0)
        problem_at(job, at(root, "train.optimizer.nesterov"), "train.optimizer.nesterov", NULL, "nesterov needs train.optimizer.momentum greater than 0");
}

/* What others dial, together with a server name. */
static void check_dialled(struct job *job, const struct tree *t, const char *path, const char *door)
{
    static const char *const everywhere[] = {"0.0.0.0:", "[::]:", "*:"};
    size_t host = strspn(door, HOST_CHARACTERS);
    for (unsigned k = 0; k < ARRAY_LEN(everywhere); k++)
        if (strncmp(door, everywhere[k], strlen(everywhere[k])) == 0) {
            problem_at(job, t, path, NULL, "'%.80s' names no host that others could dial; write the host's name or address", door);
            return;
        }
    if (host != strlen(door) || host > DOOR_HOST_MAX + strlen(strrchr(door, ':')))
        problem_at(job, t, path, NULL, "'%.80s' is no door; its host has at most %d letters, digits, dots and dashes", door, DOOR_HOST_MAX);
}

/* A door's host is where it listens and what others dial, unless its address is given. */
static void check_door(struct job *job, const struct tree *site, uint32_t i)
{
    const char *door = job->spec.sites[i].door, *shown = job->spec.sites[i].door_address;
    const char *path = job_text(job, "sites[%u].door", i), *shown_path = job_text(job, "sites[%u].door_address", i);
    const struct tree *t = at(site, "door"), *t_shown = at(site, "door_address");
    if (shown && !t)
        problem_at(job, t_shown, shown_path, NULL, "this is where others reach the site's door, and it has none; give it one: door: HOST:PORT");
    else if (shown && strcmp(strrchr(shown, ':'), ":0") == 0)
        problem_at(job, t_shown, shown_path, NULL, "'%.80s' has no port that others could dial", shown);
    else if (shown && door && strcmp(strrchr(door, ':'), ":0") == 0)
        problem_at(job, t, path, NULL, "'%.80s' takes a free port, which nobody can forward '%.80s' (%s) to; name one", door, shown, line_of(job, t_shown));
    if (door && job->spec.sites[i].via == VIA_JOIN)
        problem_at(job, t, path, NULL, "nobody dials a site that joins: it needs no door; leave it out");
    if (shown)
        check_dialled(job, t_shown, shown_path, shown);
    else if (door && !t_shown)
        check_dialled(job, t, path, door);
}

static void check_doors(struct job *job, const struct tree *root)
{
    const struct tree *list = at(root, "sites"), *chosen = at(root, "coordinator.door"), *listen = at(root, "coordinator.listen");
    struct job_spec *s = &job->spec;
    const struct job_site *at_site = NULL;
    const struct tree *at_tree = NULL;
    const char *names[SITES_MAX];
    chosen = s->coordinator_door ? chosen : NULL;
    for (uint32_t i = 0; i < s->site_count; i++) {
        names[i] = s->sites[i].name;
        check_door(job, list && list->kind == TREE_LIST ? list->item[i] : NULL, i);
        if (chosen && strcmp(s->sites[i].name, s->coordinator_door) == 0) {
            at_site = &s->sites[i];
            at_tree = list ? list->item[i] : NULL;
        }
    }
    const char *near = chosen && !at_site ? nearest_name(s->coordinator_door, names, s->site_count) : NULL;
    if (chosen && !at_site)
        problem_at(job, chosen, "coordinator.door", near ? job_text(job, "did you mean '%s'?", near) : NULL, "there is no site named '%.60s'",
                   s->coordinator_door);
    else if (chosen && !at(at_tree, "door"))
        problem_at(job, chosen, "coordinator.door", NULL, "site '%.60s' (%s) has no door; give it one: door: HOST:PORT", s->coordinator_door,
                   line_of(job, at_tree));
    if (chosen && listen)
        problem_at(job, chosen, "coordinator.door", NULL, "give coordinator.door (%s) or coordinator.listen (%s), not both", line_of(job, chosen),
                   line_of(job, listen));
}

/* Whether it is plain or TLS follows from the address: there is no way to ask for plain metrics that other hosts could read. */
static void check_metrics(struct job *job, const struct tree *root)
{
    const struct tree *t = at(root, "coordinator.metrics");
    const char *text = job->spec.metrics;
    size_t host = text ? strspn(text, HOST_CHARACTERS) : 0;
    if (text && (host != strlen(text) || host > DOOR_HOST_MAX + strlen(strrchr(text, ':'))))
        problem_at(job, t, "coordinator.metrics", NULL,
                   "'%.80s' is no HOST:PORT; without a scheme: loopback addresses show plain HTTP, every other one TLS to those who hold a certificate of the run", text);
}

static void read_train(struct job *job, const struct tree *root)
{
    struct job_spec *s = &job->spec;
    const struct tree *epochs = at(root, "train.epochs"), *steps = at(root, "train.steps");
    if (epochs && steps)
        problem_at(job, steps->line >= epochs->line ? steps : epochs, steps->line >= epochs->line ? "train.steps" : "train.epochs", NULL,
                   "give train.epochs (%s) or train.steps (%s), not both", line_of(job, epochs), line_of(job, steps));
    s->epochs = number_at(root, "train.epochs");
    s->steps = (uint64_t)number_at(root, "train.steps");
    if (!epochs && !steps)
        s->epochs = 1;
    s->batch = (uint32_t)number_at(root, "train.batch");
    s->lanes = (uint32_t)number_at(root, "train.lanes");
    s->seed = (uint64_t)number_at(root, "train.seed");
    s->deterministic = bool_at(root, "train.deterministic");
    s->loss = LOSS_CROSS_ENTROPY;
}

static void read_export(struct job *job, const struct tree *root)
{
    struct job_spec *s = &job->spec;
    const struct tree *export = tree_get(root, "export"), *to = at(root, "export.to"), *quantize = at(root, "export.quantize");
    const char *calibration = text_at(root, "export.quantize.calibration");
    s->has_export = !(export && tree_is_null(export));
    for (uint32_t i = 0; to && to->kind == TREE_LIST && i < to->count; i++)
        if (to->item[i]->kind == TREE_SCALAR)
            s->export_to |= strcmp(to->item[i]->text, "onnx") == 0 ? EXPORT_ONNX : strcmp(to->item[i]->text, "triton") == 0 ? EXPORT_TRITON : EXPORT_SAFETENSORS;
    if (s->has_export && !s->export_to)
        s->export_to = EXPORT_ONNX | EXPORT_SAFETENSORS;
    s->registry = text_at(root, "export.registry");
    s->registry_model = text_at(root, "export.model") ? text_at(root, "export.model") : s->name;
    if (s->registry && !(s->export_to & (EXPORT_ONNX | EXPORT_TRITON)))
        problem_at(job, at(root, "export.registry"), "export.registry", NULL, "the registry (%s) takes ONNX files, and export.to (%s) asks for none",
                   line_of(job, at(root, "export.registry")), line_of(job, to));
    if (at(root, "export.prune")) {
        s->prune.sparsity = number_at(root, "export.prune.sparsity");
        s->prune.epochs = number_at(root, "export.prune.epochs");
    }
    s->quantize = (struct job_quantize){.on = quantize != NULL, .images = (uint32_t)number_at(root, "export.quantize.images"),
                                        .max_drop = number_at(root, "export.gate.max_drop")};
    for (int c = CALIBRATION_MSE; c <= CALIBRATION_MINMAX; c++)
        if (strcmp(calibration, job_calibration_name((enum job_calibration)c)) == 0)
            s->quantize.calibration = (enum job_calibration)c;
    if (quantize && !at(root, "data.eval"))
        problem_at(job, quantize, "export.quantize", NULL, "quantization (%s) needs data.eval: whether it is good enough is decided on it", line_of(job, quantize));
    if (quantize && s->site_count && !s->sites[0].reads_data)
        problem_at(job, quantize, "export.quantize", NULL,
                   "quantization (%s) measures training images at the first site, which data.residency (%s) keeps from reading them", line_of(job, quantize), line_of(job, at(root, "data.residency")));
}

static uint32_t slurm_nodes(const struct job_spec *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->site_count; i++)
        n += s->sites[i].via == VIA_SLURM ? s->sites[i].nodes : 0;
    return n;
}

static void read_rest(struct job *job, const struct tree *root)
{
    struct job_spec *s = &job->spec;
    s->name = text_at(root, "name");
    s->train = (struct job_dataset){text_at(root, "data.train.images"), text_at(root, "data.train.labels")};
    s->has_eval = at(root, "data.eval") != NULL;
    if (s->has_eval)
        s->eval = (struct job_dataset){text_at(root, "data.eval.images"), text_at(root, "data.eval.labels")};
    s->listen = address_of(at(root, "coordinator.listen"));
    if (!s->listen)
        s->listen = slurm_nodes(s) > 1 ? "0.0.0.0:0" : key_find("coordinator.listen")->fallback;
    s->address = address_of(at(root, "coordinator.address"));
    s->coordinator_door = text_at(root, "coordinator.door");
    s->metrics = address_of(at(root, "coordinator.metrics"));
    s->inside = INSIDE_ALLREDUCE;
    s->checkpoint_every = (uint64_t)number_at(root, "checkpoint.every");
    s->checkpoint_keep = (uint32_t)number_at(root, "checkpoint.keep");
    s->checkpoint_replicas = at(root, "checkpoint.replicas") ? (uint32_t)number_at(root, "checkpoint.replicas") : MIN(2u, s->site_count);
    s->ram_every = (uint32_t)number_at(root, "checkpoint.ram_every");
}

/* What a site elsewhere reads is looked at there. */
static bool reads_here(const struct job_spec *s)
{
    for (uint32_t i = 0; i < s->site_count; i++)
        if (s->sites[i].via == VIA_LOCAL || s->sites[i].via == VIA_MPIRUN)
            return true;
    return false;
}

void check_whole(struct job *job, const struct tree *root, bool check_files)
{
    read_train(job, root);
    read_sites(job, root);
    read_rest(job, root);
    check_sites(job, root);
    check_nodes(job, root);
    read_slurm(job, at(root, "sites"));
    check_residency(job, root);
    read_export(job, root);
    read_model(job, root);
    read_optimizer(job, root);
    check_doors(job, root);
    check_metrics(job, root);
    if (check_files && reads_here(&job->spec))
        check_data_files(job, root);
    if (!job->problems.errors)
        resolve_text(job);
}
