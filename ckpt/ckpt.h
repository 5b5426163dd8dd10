/* ckpt: durable state. A checkpoint is a value: HDF5 parts written deterministically, a box table, and a manifest published last.
 * A checkpoint exists if and only if its manifest is in place and its parts verify. */
#ifndef VIADUCT_CKPT_CKPT_H
#define VIADUCT_CKPT_CKPT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/checksum.h"
#include "base/err.h"
#include "base/fs.h"
#include "base/layout.h"

#define CKPT_PARTS_MAX 64
#define CKPT_SLOTS_MAX 4
#define CKPT_VERSION 1

struct ckpt_part {                    /* one HDF5 file: the blocks of one shard */
    uint32_t index;
    uint64_t size_bytes;
    uint8_t sha256[SHA256_BYTES];
};

struct ckpt_meta {                    /* what a resume must know, besides the bytes; plain data in the manifest */
    char job_id[40];
    uint32_t generation;
    uint64_t step;                    /* applied records; weights of version `step` */
    uint32_t pass; uint64_t position; /* ledger: next sample of the pass */
    uint64_t log_position;
    uint32_t view;                    /* membership version it was decided in; new ones exceed it */
    uint64_t seed, samples_per_pass;
    char phase[32];                   /* "train" */
    char optimizer[32];
    uint32_t slot_count; char slot_name[CKPT_SLOTS_MAX][32];
    char spec_sha256[SHA256_HEX], data_sha256[SHA256_HEX];
    const char *model_json;           /* model_config_print's text; owned by whoever filled the struct */
    const char *spec_yaml;            /* resolved spec, for resume checks */
};

struct ckpt_manifest {                /* decoded manifest.json; owned, ckpt_manifest_fini frees */
    struct ckpt_meta meta;
    struct layout layout;
    uint32_t part_count;
    struct ckpt_part part[CKPT_PARTS_MAX];
    uint32_t *part_of_block;          /* layout.block_count entries: the box table */
    struct arena arena;
};

/* ---- writing: called off the training path, with buffers that nobody changes meanwhile ---- */
/* Builds the HDF5 image of a part in memory and writes it to DIR/part-GGGG-SSSSSSSS-II.h5 (generation, step, index) by temporary name,
 * fsync, rename. blocks: the block indices held (ascending); weights/slots: per block pointers, in the order of `blocks`.
 * The bytes are a pure function of the arguments. */
struct ckpt_part_data {
    const struct layout *layout;
    uint32_t block_count;
    const uint32_t *block;
    const float *const *weights;      /* [block_count] */
    uint32_t slot_count;
    const float *const *slots;        /* [slot_count * block_count], slot-major */
};
int ckpt_part_write(const struct fs *fs, const char *dir, uint32_t generation, uint64_t step, uint32_t index,
                    const struct ckpt_part_data *data, const struct ckpt_meta *meta, struct ckpt_part *out, struct err *err);
/* Writes model.h5 (whole tensors by name, as views into the parts: /parameters, /state, /optimizer/<slot>) and publishes
 * manifest.json by link(2); parts must be in DIR and are verified first. ERR_CONFLICT when another manifest is already there, 0 when the same is. */
int ckpt_publish(const struct fs *fs, const char *dir, const struct ckpt_manifest *manifest, struct err *err);
/* The manifest's bytes (JSON, sorted, no time stamps): equal at every site. *out: malloc. */
int ckpt_manifest_encode(const struct ckpt_manifest *m, char **out, size_t *size, struct err *err);
int ckpt_manifest_decode(const char *text, size_t size, struct ckpt_manifest *out, struct err *err);
void ckpt_manifest_fini(struct ckpt_manifest *m);

/* ---- reading ---- */
int ckpt_open(const struct fs *fs, const char *dir, struct ckpt_manifest *out, struct err *err);       /* manifest only; ERR_NOT_FOUND without one */
/* Verifies every part's size and SHA-256; ERR_CORRUPT naming the damaged or missing part file. */
int ckpt_verify(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err);
/* Only whether every part is there, of the size that the manifest says: milliseconds for a checkpoint of any size. */
int ckpt_present(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err);
/* The same as ckpt_verify for model.h5, byte for byte, which a resume does not read. */
int ckpt_verify_model(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err);
/* Reads blocks (any subset, ascending) into the given pointers, from whichever parts hold them; verifies each part it opens first.
 * slots may be NULL. */
int ckpt_read_blocks(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, uint32_t block_count, const uint32_t *block,
                     float *const *weights, float *const *slots, struct err *err);

/* ---- folders: ROOT/<site>/step-NNNNNNNN/ ---- */
struct ckpt_found { char site[64]; uint64_t step; uint32_t generation; char dir[1024]; bool published; };
/* All checkpoints under every site's folder of root (published ones, and leftovers with published=false), newest first; of more than `max` the newest.
 * A site's folder that cannot be looked into is an error, but *count is of all others then. */
int ckpt_list(const char *root, struct ckpt_found *out, uint32_t max, uint32_t *count, struct err *err);
/* Those of one step. */
int ckpt_list_step(const char *root, uint64_t step, struct ckpt_found *out, uint32_t max, uint32_t *count, struct err *err);
/* The newest that verifies, at any site, and that `is_void` does not take out (NULL: those that a newer generation's checkpoints show to be void);
 * each damaged one passed over is reported through `damaged` (a line each, may be NULL). */
int ckpt_newest(const struct fs *fs, const char *root, struct ckpt_found *out, struct ckpt_manifest *manifest,
                bool (*is_void)(void *arg, const struct ckpt_found *found), void (*damaged)(void *arg, const char *text), void *arg, struct err *err);
/* As ckpt_newest, of those that are present: which one a resume will look at first. */
int ckpt_newest_present(const struct fs *fs, const char *root, struct ckpt_found *out, struct ckpt_manifest *manifest,
                        bool (*is_void)(void *arg, const struct ckpt_found *found), void (*damaged)(void *arg, const char *text), void *arg, struct err *err);
/* Removes all but the newest `keep` published checkpoints of one site's folder, and leftovers of older steps; never the last one, nor that of step `always`. Void ones,
 * that a newer generation went back below, do not count: they stay until that generation has a checkpoint of their step. */
int ckpt_prune(const struct fs *fs, const char *site_dir, uint32_t keep, uint64_t always, struct err *err);
/* Copies a verified checkpoint folder to another site's folder, resumably, by hash; publishes last. */
int ckpt_copy(const struct fs *fs, const char *from_dir, const char *to_dir, struct err *err);

/* SHA-256 of tensors of one kind: fp32 little-endian, sorted bytewise by name, raw data concatenated. */
void weights_sha256(const struct layout *l, const float *arena, enum tensor_kind kind, char out[SHA256_HEX]);

#endif
