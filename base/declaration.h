/* Declaration: what the first gang tells everyone about the job when it joins: the tensors, the data, and a description of the model that only
 * the training processes understand. It rides as payload of JOIN and PLAN and lies beside the plan in the decision log. */
#ifndef VIADUCT_BASE_DECLARATION_H
#define VIADUCT_BASE_DECLARATION_H

#include "base/checksum.h"
#include "base/layout.h"

#define DECLARATION_MODEL_MAX 4096
#define DECLARATION_BYTES_MAX (4u << 20)

struct declaration {                  /* owned by its creator; declaration_fini frees */
    struct layout layout;
    char data_sha256[SHA256_HEX];     /* of the training set; "" when the trainer does not say */
    char model[DECLARATION_MODEL_MAX];/* JSON for manifests (model_config_print); "" for a trainer of its own */
};

/* *out: malloc, *size bytes. */
int declaration_encode(const struct layout *l, const char *data_sha256, const char *model, void **out, size_t *size, struct err *err);
/* ERR_CORRUPT for anything but one whole declaration. */
int declaration_decode(struct declaration *d, const void *bytes, size_t size, struct err *err);
void declaration_fini(struct declaration *d);

#endif
