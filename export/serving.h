/* What a server of one version reads: the configuration in Triton's model repository, manifests for Kubernetes and KServe, a Dockerfile. Texts are a pure
 * function of `struct served`. */
#ifndef VIADUCT_EXPORT_SERVING_H
#define VIADUCT_EXPORT_SERVING_H

#include <stdint.h>

#include "base/err.h"
#include "export/page.h"

struct served {
    const char *folder;              /* in the model repository, which is the name that clients ask for */
    const char *model;               /* names the objects of Kubernetes */
    int64_t version;
    int64_t channels, height, width, classes;
    const char *sha256;              /* of model.onnx */
    const char *dockerfile;          /* where it lies below its build context: "serving/Dockerfile" */
};

void serving_config(const struct served *s, struct page *p);    /* config.pbtxt */
void serving_labels(const struct served *s, struct page *p);    /* labels.txt */
/* deployment.yaml, service.yaml, hpa.yaml, pdb.yaml, inferenceservice.yaml, Dockerfile: number i's text and name; NULL past the last. */
const char *serving_manifest(const struct served *s, unsigned i, struct page *p);
/* All of them into dir, which is made. */
int serving_write(const struct served *s, const char *dir, struct err *err);

#endif
