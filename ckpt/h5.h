/* HDF5, confined: images of parts in memory, virtual tensors over them, blocks out of them. Not thread-safe: one thread of a process at a time. */
#ifndef VIADUCT_CKPT_H5_H
#define VIADUCT_CKPT_H5_H

#include "ckpt/ckpt.h"

/* The bytes of a part file; *image: malloc. A pure function of the arguments. */
int h5_part_image(const struct ckpt_part_data *data, const struct ckpt_meta *meta, uint32_t index, void **image, size_t *size, struct err *err);
/* The bytes of model.h5: whole tensors in ONNX shape, as virtual datasets over the parts' files (relative names, NaN where a part is missing). */
int h5_model_image(const struct ckpt_manifest *m, void **image, size_t *size, struct err *err);
/* Reads the elements of the given blocks out of a part's image (verified before). weights/slots: per block; a NULL pointer skips. */
int h5_part_read(const void *image, size_t size, const struct layout *l, const struct ckpt_meta *meta, uint32_t block_count, const uint32_t *block,
                 float *const *weights, float *const *slots, struct err *err);
/* "part-GGGG-SSSSSSSS-II.h5" */
void part_name(uint32_t generation, uint64_t step, uint32_t index, char out[64]);

#endif
