/* Between the registry's files: its folders. All that writes is called under the registry's lock, so there is one staging folder and one who uses it. */
#ifndef VIADUCT_EXPORT_REGISTRY_FILES_H
#define VIADUCT_EXPORT_REGISTRY_FILES_H

#include "export/registry.h"

/* Clears what a process that died left. */
int registry_stage(const char *root, struct err *err);
/* Before a version gets its number: ERR_CONFLICT when the store holds a higher one, which a process that died cannot have left. */
int registry_store_check(const char *root, const struct registry_version *v, struct err *err);
/* Copies `file` to store/MODEL/VERSION/model.onnx; what lay there under a number that was never given is replaced. */
int registry_store(const char *root, const struct registry_version *v, const char *file, struct err *err);
/* ERR_CORRUPT unless the store holds exactly the version's bytes. */
int registry_store_verify(const char *root, const struct registry_version *v, struct err *err);
/* What a server reads of that alias: the version's folder first, then, by one rename, the configuration that names it; then the manifests. */
int registry_render(const char *root, const struct registry_alias *a, const struct registry_version *v, struct err *err);
int registry_render_verify(const char *root, const struct registry_alias *a, const struct registry_version *v, struct err *err);

#endif
