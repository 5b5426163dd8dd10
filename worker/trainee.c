/* What a spec trains. */
#include <string.h>

#include "worker/worker.h"

static void configure(struct trainee *t, const struct job_spec *s)
{
    const struct job_model *m = &s->model;
    struct model_config *c = &t->model;
    *c = (struct model_config){.family = m->family == FAMILY_CNN ? MODEL_CNN : MODEL_MLP, .loss = MODEL_CROSS_ENTROPY, .classes = m->classes,
                               .channels = m->input[0], .height = m->input[1], .width = m->input[2], .conv_count = m->channel_count,
                               .hidden_count = m->hidden_count, .batch_norm = m->batch_norm};
    memcpy(c->conv, m->channels, sizeof c->conv);
    memcpy(c->hidden, m->hidden, sizeof c->hidden);
    dataset_normalization(&t->train, c->mean, c->deviation);
    const struct job_optim *o = &s->optimizer;
    t->optim = (struct optim_config){.kind = o->name == OPTIMIZER_SGD ? OPTIM_SGD : OPTIM_ADAMW, .weight_decay = (float)o->weight_decay,
                                     .beta1 = (float)o->beta1, .beta2 = (float)o->beta2, .eps = (float)o->eps, .momentum = (float)o->momentum,
                                     .nesterov = o->nesterov, .state_momentum = 0.1f};
}

static int open_parts(struct trainee *t, const struct job_spec *s, const char *device, struct err *err)
{
    const struct job_model *m = &s->model;
    TRY(dataset_open_idx(&t->train, s->train.images, s->train.labels, m->input[0], m->input[1], m->input[2], m->classes, err));
    if (s->has_eval)
        TRY(dataset_open_idx(&t->eval, s->eval.images, s->eval.labels, m->input[0], m->input[1], m->input[2], m->classes, err));
    configure(t, s);
    TRY(graph_build(&t->model, &t->graph, err));
    TRY(graph_layout(t->graph, &t->layout, err));
    return device_open(device, &t->device, err);
}

int trainee_open(struct trainee *t, const struct job_spec *spec, const char *device, struct err *err)
{
    *t = (struct trainee){0};
    int rc = open_parts(t, spec, device, err);
    if (rc < 0)
        trainee_close(t);
    return rc;
}

void trainee_close(struct trainee *t)
{
    dataset_close(&t->train);
    dataset_close(&t->eval);
    layout_fini(&t->layout);
    graph_free(t->graph);
    device_close(t->device);
    *t = (struct trainee){0};
}
