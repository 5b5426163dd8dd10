/* A part holds, for each tensor that has blocks in it, one flat dataset with the run of elements it covers (attribute `first`: where the run starts).
 * In model.h5 a run becomes boxes of the tensor's shape, since a run may start and end in the middle of a row. */
#include "ckpt/h5.h"

#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CORE_INCREMENT ((size_t)1 << 20)
#define PARTS_OF_TENSOR_MAX CKPT_PARTS_MAX

void part_name(uint32_t generation, uint64_t step, uint32_t index, char out[64])
{
    snprintf(out, 64, "part-%04u-%08llu-%02u.h5", generation, (unsigned long long)step, index);
}

static int fail(struct err *err, const char *what) { return err_set(err, ERR_FAILED, "HDF5 cannot %s", what); }

/* Names of tensors are labels, not paths: what HDF5 would take for one is written as ~XX, and so is '%', which virtual datasets read as a format. */
static void link_name(const char *name, char out[3 * TENSOR_NAME_MAX + 1])
{
    size_t n = 0;
    bool dots = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        n += (size_t)snprintf(out + n, 4, *p == '/' || *p == '%' || (dots && *p == '.') || *p == '~' || *p < 0x20 ? "~%02X" : "%c", *p);
}

/* ---- files in memory ---- */
static hid_t access_list(const void *image, size_t size)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_core(fapl, CORE_INCREMENT, 0);
    /* The oldest superblock has no checksum, which H5Fget_file_image of 1.10 does not bring up to date. */
    H5Pset_libver_bounds(fapl, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
    if (image)
        H5Pset_file_image(fapl, (void *)(uintptr_t)image, size);
    return fapl;
}

static hid_t new_file(void)
{
    hid_t fapl = access_list(NULL, 0), fcpl = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(fcpl, false);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);   /* errors come back as ours */
    hid_t file = H5Fcreate("memory", H5F_ACC_TRUNC, fcpl, fapl);
    H5Pclose(fcpl);
    H5Pclose(fapl);
    return file;
}

static int image_of(hid_t file, void **image, size_t *size, struct err *err)
{
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0)
        return fail(err, "finish a file in memory");
    ssize_t n = H5Fget_file_image(file, NULL, 0);
    void *bytes = n > 0 ? malloc((size_t)n) : NULL;
    if (!bytes || H5Fget_file_image(file, bytes, (size_t)n) != n) {
        free(bytes);
        return fail(err, "give a file's bytes");
    }
    *image = bytes;
    *size = (size_t)n;
    return 0;
}

static hid_t make_group(hid_t at, const char *name)
{
    hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(gcpl, false);
    hid_t g = H5Gcreate2(at, name, H5P_DEFAULT, gcpl, H5P_DEFAULT);
    H5Pclose(gcpl);
    return g;
}

static int put_number(hid_t at, const char *name, uint64_t v)
{
    hid_t space = H5Screate(H5S_SCALAR), a = H5Acreate2(at, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    int rc = H5Awrite(a, H5T_NATIVE_UINT64, &v);
    H5Aclose(a);
    H5Sclose(space);
    return rc;
}

/* /parameters, /state, /optimizer/<slot>: of one tensor kind and column (0: weights, 1 + slot). */
static hid_t open_group(hid_t file, enum tensor_kind kind, uint32_t column, const struct ckpt_meta *meta)
{
    char path[64];
    if (column)
        snprintf(path, sizeof path, "/optimizer/%s", meta->slot_name[column - 1]);
    return H5Gopen2(file, column ? path : kind == TENSOR_STATE ? "/state" : "/parameters", H5P_DEFAULT);
}

static int make_groups(hid_t file, const struct ckpt_meta *meta, struct err *err)
{
    static const char *const names[] = {"/parameters", "/state", "/optimizer"};
    char path[64];
    for (unsigned i = 0; i < 3 + meta->slot_count; i++) {
        if (i >= 3)
            snprintf(path, sizeof path, "/optimizer/%s", meta->slot_name[i - 3]);
        hid_t g = make_group(file, i < 3 ? names[i] : path);
        if (g < 0)
            return fail(err, "make a group");
        H5Gclose(g);
    }
    return 0;
}

/* ---- parts ---- */
struct run { uint32_t tensor, from, count; uint64_t first, elems; };   /* blocks data->block[from .. from + count) of one tensor, consecutive */

static bool next_run(const struct layout *l, const uint32_t *block, uint32_t block_count, uint32_t from, struct run *out)
{
    if (from >= block_count)
        return false;
    const struct block_desc *b = &l->blocks[block[from]];
    *out = (struct run){b->tensor, from, 0, b->offset - l->tensors[b->tensor].offset, 0};
    for (uint32_t i = from; i < block_count && l->blocks[block[i]].tensor == b->tensor && block[i] == block[from] + (i - from); i++) {
        out->count++;
        out->elems += l->blocks[block[i]].elems;
    }
    return true;
}

static int write_run(hid_t file, const struct ckpt_part_data *d, const struct ckpt_meta *meta, const struct run *r, uint32_t column, struct err *err)
{
    char name[3 * TENSOR_NAME_MAX + 1];
    const struct tensor_desc *t = &d->layout->tensors[r->tensor];
    hsize_t n = r->elems, at = 0;
    link_name(t->name, name);
    hid_t group = open_group(file, t->kind, column, meta), dcpl = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &n, NULL);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER);
    hid_t set = H5Dcreate2(group, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    int rc = set < 0 ? -1 : put_number(set, "first", r->first);
    for (uint32_t i = r->from; i < r->from + r->count && rc >= 0; i++) {
        hsize_t elems = d->layout->blocks[d->block[i]].elems;
        const float *data = column ? d->slots[(size_t)(column - 1) * d->block_count + i] : d->weights[i];
        hid_t memory = H5Screate_simple(1, &elems, NULL);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &elems, NULL);
        rc = H5Dwrite(set, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, data);
        H5Sclose(memory);
        at += elems;
    }
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(dcpl);
    H5Gclose(group);
    return rc < 0 ? err_set(err, ERR_FAILED, "HDF5 cannot write tensor %s", t->name) : 0;
}

int h5_part_image(const struct ckpt_part_data *data, const struct ckpt_meta *meta, uint32_t index, void **image, size_t *size, struct err *err)
{
    hid_t file = new_file();
    if (file < 0)
        return fail(err, "make a file in memory");
    int rc = make_groups(file, meta, err);
    if (rc == 0 && (put_number(file, "step", meta->step) < 0 || put_number(file, "generation", meta->generation) < 0 || put_number(file, "part", index) < 0))
        rc = fail(err, "write an attribute");
    struct run r;
    for (uint32_t from = 0; rc == 0 && next_run(data->layout, data->block, data->block_count, from, &r); from += r.count)
        for (uint32_t column = 0; rc == 0 && column <= (data->layout->tensors[r.tensor].kind == TENSOR_STATE ? 0 : data->slot_count); column++)
            rc = write_run(file, data, meta, &r, column, err);
    if (rc == 0)
        rc = image_of(file, image, size, err);
    H5Fclose(file);
    return rc;
}

static int read_block(hid_t file, const struct layout *l, const struct ckpt_meta *meta, uint32_t block, uint32_t column, float *out, struct err *err)
{
    char name[3 * TENSOR_NAME_MAX + 1];
    const struct block_desc *b = &l->blocks[block];
    const struct tensor_desc *t = &l->tensors[b->tensor];
    link_name(t->name, name);
    hid_t group = open_group(file, t->kind, column, meta), set = H5Dopen2(group, name, H5P_DEFAULT);
    int rc = -1;
    if (set >= 0) {
        uint64_t first = 0;
        hid_t a = H5Aopen(set, "first", H5P_DEFAULT), space = H5Dget_space(set);
        H5Aread(a, H5T_NATIVE_UINT64, &first);
        hsize_t at = b->offset - t->offset - first, elems = b->elems;
        hid_t memory = H5Screate_simple(1, &elems, NULL);
        if (H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &elems, NULL) >= 0 && H5Sselect_valid(space) > 0)
            rc = H5Dread(set, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, out);
        H5Sclose(memory);
        H5Sclose(space);
        H5Aclose(a);
        H5Dclose(set);
    }
    H5Gclose(group);
    return rc < 0 ? err_set(err, ERR_CORRUPT, "block %u of tensor %s is not where the manifest says", b->index, t->name) : 0;
}

int h5_part_read(const void *image, size_t size, const struct layout *l, const struct ckpt_meta *meta, uint32_t block_count, const uint32_t *block,
                 float *const *weights, float *const *slots, struct err *err)
{
    hid_t fapl = access_list(image, size);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen("memory", H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    if (file < 0)
        return fail(err, "open a verified part");
    int rc = 0;
    for (uint32_t i = 0; i < block_count && rc == 0; i++) {
        if (weights && weights[i])
            rc = read_block(file, l, meta, block[i], 0, weights[i], err);
        bool state = l->tensors[l->blocks[block[i]].tensor].kind == TENSOR_STATE;
        for (uint32_t s = 0; slots && !state && s < meta->slot_count && rc == 0; s++)
            if (slots[(size_t)s * block_count + i])
                rc = read_block(file, l, meta, block[i], 1 + s, slots[(size_t)s * block_count + i], err);
    }
    H5Fclose(file);
    return rc;
}

/* ---- whole tensors ---- */
/* A flat range of a row-major tensor as boxes: rows of the first dimension that are whole go into one box, cut ones into their own sub-ranges. */
static int map_boxes(hid_t dcpl, hid_t whole, const struct tensor_desc *t, uint32_t dim, hsize_t *start, hsize_t *count, uint64_t from, uint64_t to,
                     const char *file, const char *set, uint64_t run_first, uint64_t run_elems)
{
    if (from >= to)
        return 0;
    uint64_t row = 1;   /* elements below one index of `dim` */
    for (uint32_t d = dim + 1; d < t->dim_count; d++)
        row *= t->dims[d];
    uint64_t base = 0, below = 1;   /* flat position of start[0 .. dim) */
    for (uint32_t d = t->dim_count; d-- > 0;) {
        if (d < dim)
            base += start[d] * below;
        below *= t->dims[d];
    }
    uint64_t lo = (from - base) / row, hi = (to - base) / row;
    if ((from - base) % row != 0 || lo == hi) {   /* begins inside a row: that row first */
        uint64_t end = base + (lo + 1) * row < to ? base + (lo + 1) * row : to;
        start[dim] = lo;
        count[dim] = 1;
        if (map_boxes(dcpl, whole, t, dim + 1, start, count, from, end, file, set, run_first, run_elems) < 0)
            return -1;
        return map_boxes(dcpl, whole, t, dim, start, count, end, to, file, set, run_first, run_elems);
    }
    start[dim] = lo;
    count[dim] = hi - lo;
    for (uint32_t d = dim + 1; d < t->dim_count; d++) {
        start[d] = 0;
        count[d] = t->dims[d];
    }
    hsize_t source_size = run_elems, source_at = from - run_first, n = (hi - lo) * row;
    hid_t source = H5Screate_simple(1, &source_size, NULL);
    H5Sselect_hyperslab(source, H5S_SELECT_SET, &source_at, NULL, &n, NULL);
    H5Sselect_hyperslab(whole, H5S_SELECT_SET, start, NULL, count, NULL);
    int rc = H5Pset_virtual(dcpl, whole, file, set, source);
    H5Sclose(source);
    return rc < 0 ? -1 : map_boxes(dcpl, whole, t, dim, start, count, base + hi * row, to, file, set, run_first, run_elems);
}

static int virtual_tensor(hid_t file, const struct ckpt_manifest *m, uint32_t tensor, uint32_t column, struct err *err)
{
    const struct layout *l = &m->layout;
    struct tensor_desc shaped = l->tensors[tensor];
    if (shaped.dim_count == 0)   /* a scalar is shown as one element */
        shaped.dims[shaped.dim_count++] = 1;
    const struct tensor_desc *t = &shaped;
    char name[3 * TENSOR_NAME_MAX + 1], part[64], set[3 * TENSOR_NAME_MAX + 80];
    hsize_t dims[TENSOR_DIMS_MAX], start[TENSOR_DIMS_MAX] = {0}, count[TENSOR_DIMS_MAX] = {0};
    float nan = NAN;
    link_name(t->name, name);
    if (column)
        snprintf(set, sizeof set, "/optimizer/%s/%s", m->meta.slot_name[column - 1], name);
    else
        snprintf(set, sizeof set, "/%s/%s", t->kind == TENSOR_STATE ? "state" : "parameters", name);
    for (uint32_t d = 0; d < t->dim_count; d++)
        dims[d] = t->dims[d];
    hid_t whole = H5Screate_simple((int)t->dim_count, dims, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_fill_value(dcpl, H5T_NATIVE_FLOAT, &nan);   /* a missing part never passes for zeros */
    int rc = 0;
    for (uint32_t b = t->first_block; b < t->first_block + t->block_count && rc >= 0;) {
        uint32_t end = b;
        uint64_t elems = 0, first = l->blocks[b].offset - t->offset;
        while (end < t->first_block + t->block_count && m->part_of_block[end] == m->part_of_block[b])
            elems += l->blocks[end++].elems;
        part_name(m->meta.generation, m->meta.step, m->part[m->part_of_block[b]].index, part);
        rc = map_boxes(dcpl, whole, t, 0, start, count, first, first + elems, part, set, first, elems);
        b = end;
    }
    H5Sselect_all(whole);
    hid_t made = rc < 0 ? -1 : H5Dcreate2(file, set, H5T_IEEE_F32LE, whole, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    if (made >= 0)
        H5Dclose(made);
    H5Pclose(dcpl);
    H5Sclose(whole);
    return made < 0 ? err_set(err, ERR_FAILED, "HDF5 cannot describe tensor %s", t->name) : 0;
}

int h5_model_image(const struct ckpt_manifest *m, void **image, size_t *size, struct err *err)
{
    hid_t file = new_file();
    if (file < 0)
        return fail(err, "make a file in memory");
    int rc = make_groups(file, &m->meta, err);
    if (rc == 0 && (put_number(file, "step", m->meta.step) < 0 || put_number(file, "generation", m->meta.generation) < 0))
        rc = fail(err, "write an attribute");
    for (uint32_t t = 0; t < m->layout.tensor_count && rc == 0; t++)
        for (uint32_t column = 0; rc == 0 && column <= (m->layout.tensors[t].kind == TENSOR_STATE ? 0 : m->meta.slot_count); column++)
            rc = virtual_tensor(file, m, t, column, err);
    if (rc == 0)
        rc = image_of(file, image, size, err);
    H5Fclose(file);
    return rc;
}
