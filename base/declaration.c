#include "base/declaration.h"

#include <stdlib.h>
#include <string.h>

int declaration_encode(const struct layout *l, const char *data_sha256, const char *model, void **out, size_t *size, struct err *err)
{
    if (strlen(data_sha256) >= SHA256_HEX || strlen(model) >= DECLARATION_MODEL_MAX)
        return err_set(err, ERR_USAGE, "the description of the model is longer than %d bytes", DECLARATION_MODEL_MAX - 1);
    uint8_t *bytes = malloc(DECLARATION_BYTES_MAX);
    if (!bytes)
        return err_set(err, ERR_NO_MEMORY, "no memory to declare the model");
    struct writer w = writer_over(bytes, DECLARATION_BYTES_MAX);
    layout_encode(l, &w);
    put_str(&w, data_sha256);
    put_str(&w, model);
    if (w.bad) {
        free(bytes);
        return err_set(err, ERR_USAGE, "the model has more tensors than a declaration of %u bytes can name", DECLARATION_BYTES_MAX);
    }
    *out = bytes;
    *size = w.pos;
    return 0;
}

int declaration_decode(struct declaration *d, const void *bytes, size_t size, struct err *err)
{
    struct reader r = reader_over(bytes, size);
    *d = (struct declaration){0};
    TRY(layout_decode(&d->layout, &r, err));
    get_str(&r, d->data_sha256, sizeof d->data_sha256);
    get_str(&r, d->model, sizeof d->model);
    if (reader_done(&r))
        return 0;
    declaration_fini(d);
    return err_set(err, ERR_CORRUPT, "the declaration of the model does not end where it should");
}

void declaration_fini(struct declaration *d)
{
    layout_fini(&d->layout);
    *d = (struct declaration){0};
}
