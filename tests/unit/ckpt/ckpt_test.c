/* Checkpoints: bytes that repeat, damage that is named, a crash at every system call of the writer, folders, copies. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/ckpt/sample.h"

static char root[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/viaduct-ckpt-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static void shell(const char *fmt, ...)
{
    char command[2000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    assert_int_equal(system(command), 0);
}

static int tear_down(void **state)
{
    (void)state;
    shell("rm -rf %s", root);
    return 0;
}

static void check_right(const char *dir, const struct sample *s)
{
    struct err e = ERR_INIT;
    struct ckpt_manifest m;
    assert_ok(ckpt_open(&fs_real, dir, &m, &e));
    assert_ok(ckpt_verify(&fs_real, dir, &m, &e));
    uint32_t n = m.layout.block_count, *block = calloc(n, sizeof *block);
    float *copy = calloc(3 * m.layout.elems, 4), **w = calloc(n, sizeof *w), **slots = calloc(2 * n, sizeof *slots);
    for (uint32_t b = 0; b < n; b++) {
        block[b] = b;
        w[b] = copy + m.layout.blocks[b].offset;
        for (uint32_t k = 0; k < 2; k++)
            slots[k * n + b] = copy + (k + 1) * m.layout.elems + m.layout.blocks[b].offset;
    }
    assert_ok(ckpt_read_blocks(&fs_real, dir, &m, n, block, w, slots, &e));
    for (uint32_t b = 0; b < n; b++) {
        const struct block_desc *d = &m.layout.blocks[b];
        assert_memory_equal(w[b], s->weights + d->offset, d->elems * 4);
        if (m.layout.tensors[d->tensor].kind == TENSOR_PARAMETER)
            for (uint32_t k = 0; k < 2; k++)
                assert_memory_equal(slots[k * n + b], s->slot[k] + d->offset, d->elems * 4);
    }
    assert_string_equal(m.meta.spec_yaml, "viaduct: v1\n");
    assert_int_equal(m.meta.position, 512);
    free(block);
    free(copy);
    free(w);
    free(slots);
    ckpt_manifest_fini(&m);
}

static void test_write_and_read_back(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s;
    char a[128], b[128];
    snprintf(a, sizeof a, "%s/onprem/step-00000200", root);
    snprintf(b, sizeof b, "%s/cloud/step-00000200", root);
    assert_ok(sample_open(&s, 200, &e));
    assert_ok(sample_write(&s, &fs_real, a, &e));
    check_right(a, &s);
    assert_ok(sample_write(&s, &fs_real, b, &e));
    shell("cmp %s/part-0001-00000200-00.h5 %s/part-0001-00000200-00.h5 && cmp %s/part-0001-00000200-01.h5 %s/part-0001-00000200-01.h5 && "
          "cmp %s/manifest.json %s/manifest.json && cmp %s/model.h5 %s/model.h5", a, b, a, b, a, b, a, b);   /* both sites write the same bytes */
    assert_ok(sample_write(&s, &fs_real, a, &e));   /* once more is no conflict */
    s.weights[0] += 1;
    assert_int_equal(sample_write(&s, &fs_real, a, &e), ERR_CONFLICT);   /* another history of this step is fenced */
    sample_close(&s);
}

static bool is_above_300(void *arg, const struct ckpt_found *found) { (void)arg; return found->step > 300; }

static void test_damage_is_named_and_passed_over(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s, older;
    struct ckpt_found found;
    struct ckpt_manifest m;
    char dir[128], old[128];
    snprintf(dir, sizeof dir, "%s/onprem/step-00000400", root);
    snprintf(old, sizeof old, "%s/cloud/step-00000200", root);
    assert_ok(sample_open(&s, 400, &e));
    assert_ok(sample_open(&older, 200, &e));
    assert_ok(sample_write(&s, &fs_real, dir, &e));
    assert_ok(sample_write(&older, &fs_real, old, &e));
    assert_ok(ckpt_newest(&fs_real, root, &found, &m, NULL, NULL, NULL, &e));
    assert_int_equal(found.step, 400);
    ckpt_manifest_fini(&m);
    assert_ok(ckpt_newest(&fs_real, root, &found, &m, is_above_300, NULL, NULL, &e));
    assert_int_equal(found.step, 200);
    ckpt_manifest_fini(&m);
    static const char *const harm[] = {"truncate -s -1 %s/part-0001-00000400-01.h5", "rm %s/part-0001-00000400-00.h5",
                                       "printf x | dd of=%s/part-0001-00000400-00.h5 bs=1 seek=70000 conv=notrunc 2>/dev/null"};
    static const char *const named[] = {"00000400-01.h5", "00000400-00.h5", "00000400-00.h5"};
    for (unsigned i = 0; i < ARRAY_LEN(harm); i++) {
        shell(harm[i], dir);
        assert_ok(ckpt_open(&fs_real, dir, &m, &e));
        assert_int_equal(ckpt_verify(&fs_real, dir, &m, &e), ERR_CORRUPT);
        assert_non_null(strstr(e.text, named[i]));
        ckpt_manifest_fini(&m);
        assert_ok(ckpt_newest(&fs_real, root, &found, &m, NULL, NULL, NULL, &e));   /* the older, whole one */
        assert_int_equal(found.step, 200);
        assert_string_equal(found.site, "cloud");
        ckpt_manifest_fini(&m);
        assert_ok(ckpt_newest_present(&fs_real, root, &found, &m, NULL, NULL, NULL, &e));   /* reads no part: the flipped byte is left to who does */
        assert_int_equal(found.step, i < 2 ? 200 : 400);
        ckpt_manifest_fini(&m);
        shell("rm -rf %s", dir);
        assert_ok(sample_write(&s, &fs_real, dir, &e));
    }
    assert_ok(ckpt_open(&fs_real, dir, &m, &e));
    assert_ok(ckpt_verify_model(&fs_real, dir, &m, &e));
    shell("printf x | dd of=%s/model.h5 bs=1 seek=900 conv=notrunc 2>/dev/null", dir);
    assert_ok(ckpt_verify(&fs_real, dir, &m, &e));
    assert_int_equal(ckpt_verify_model(&fs_real, dir, &m, &e), ERR_CORRUPT);
    shell("rm %s/model.h5", dir);
    assert_int_equal(ckpt_verify_model(&fs_real, dir, &m, &e), ERR_CORRUPT);
    ckpt_manifest_fini(&m);
    sample_close(&s);
    sample_close(&older);
}

static void test_manifest_decoder_refuses(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s;
    char dir[128], path[160];
    void *text;
    size_t size;
    struct ckpt_manifest m;
    snprintf(dir, sizeof dir, "%s/a/step-00000001", root);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    assert_ok(sample_open(&s, 1, &e));
    assert_ok(sample_write(&s, &fs_real, dir, &e));
    assert_ok(fs_read_file(&fs_real, path, 1 << 20, &text, &size, &e));
    for (size_t n = 0; n + 2 < size; n += 7)   /* the last bytes are "]}\n" */
        assert_int_equal(ckpt_manifest_decode(text, n, &m, &e), ERR_CORRUPT);
    char *copy = malloc(size + 1);
    static const char *const wrong[][2] = {{"\"version\":1", "\"version\":9"}, {"[[0,1]", "[[7,1]"}, {"[[0,1]", "[[0,2]"}, {"\"bytes\":", "\"bytez\":"},
                                           {"\"kind\":\"state\"", "\"kind\":\"stats\""}, {"exp_avg\"", "../avg\""}};
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        memcpy(copy, text, size + 1);
        char *at = strstr(copy, wrong[i][0]);
        assert_non_null(at);
        memcpy(at, wrong[i][1], strlen(wrong[i][1]));
        int rc = ckpt_manifest_decode(copy, size, &m, &e);
        assert_int_equal(rc, i == 0 ? ERR_CONFLICT : ERR_CORRUPT);
    }
    free(copy);
    free(text);
    sample_close(&s);
}

/* What version 1 of the manifest looks like; changed bytes mean a new version, never a new fixture. */
static void test_golden_manifest_version_1(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s;
    assert_ok(sample_open(&s, 200, &e));
    struct ckpt_manifest m = {.meta = s.meta, .layout = s.l, .part_count = 2, .part_of_block = s.shard, .part = {{.index = 0, .size_bytes = 11}, {.index = 1, .size_bytes = 22}}}, back;
    memset(m.part[1].sha256, 0xab, SHA256_BYTES);
    char *got, *again;
    void *want;
    size_t n, k;
    assert_ok(ckpt_manifest_encode(&m, &got, &n, &e));
    if (getenv("VIADUCT_WRITE_GOLDEN"))
        assert_ok(fs_write_file(&fs_real, "tests/fixtures/manifest-v1.json", got, n, &e));
    assert_ok(fs_read_file(&fs_real, "tests/fixtures/manifest-v1.json", 1 << 16, &want, &k, &e));
    assert_string_equal(got, want);
    assert_ok(ckpt_manifest_decode(want, k, &back, &e));
    assert_ok(ckpt_manifest_encode(&back, &again, &k, &e));
    assert_string_equal(got, again);
    ckpt_manifest_fini(&back);
    free(got);
    free(again);
    free(want);
    sample_close(&s);
}

/* ---- a file system that stops at its n-th call, and then loses what was not synced ---- */
enum loss { LOSE_NOTHING, LOSE_UNSYNCED, TEAR_UNSYNCED, LOSSES };
#define OPS_MAX 256
struct change { enum { MADE, RENAMED, LINKED, UNLINKED } kind; char path[300], to[300]; bool durable; };
struct crash_fs {
    unsigned calls, at;               /* the at-th call and all later ones fail */
    int code;                         /* with this errno; only the at-th one when `once` */
    bool once;
    struct { int fd; char path[300]; bool dirty, open; } file[64];
    struct change change[OPS_MAX];
    unsigned change_count;
};

static bool down(struct crash_fs *c)
{
    c->calls++;
    return c->once ? c->calls == c->at : c->calls >= c->at;
}

static struct change *note(struct crash_fs *c, int kind, const char *path, const char *to)
{
    assert_true(c->change_count < OPS_MAX);
    struct change *k = &c->change[c->change_count++];
    *k = (struct change){.kind = kind};
    snprintf(k->path, sizeof k->path, "%s", path);
    snprintf(k->to, sizeof k->to, "%s", to ? to : "");
    return k;
}

static int crash_open(void *s, const char *path, int flags, int mode)
{
    struct crash_fs *c = s;
    if (down(c))
        return -c->code;
    bool is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    int fd = fs_real.open(NULL, path, flags, mode);
    if (fd >= 0 && fd < 64) {
        c->file[fd].open = true;
        c->file[fd].dirty = false;
        snprintf(c->file[fd].path, sizeof c->file[fd].path, "%s", path);
        if (is_new)
            note(c, MADE, path, NULL);
    }
    return fd;
}

static ssize_t crash_pwrite(void *s, int fd, const void *p, size_t n, off_t at)
{
    struct crash_fs *c = s;
    if (down(c)) {
        if (c->code != ENOSPC)
            (void)!pwrite(fd, p, n / 2, at);   /* a crash may leave half of it */
        c->file[fd].dirty = true;
        return -c->code;
    }
    c->file[fd].dirty = true;
    return fs_real.pwrite(NULL, fd, p, n, at);
}

static ssize_t crash_pread(void *s, int fd, void *p, size_t n, off_t at)
{
    return down(s) ? -((struct crash_fs *)s)->code : fs_real.pread(NULL, fd, p, n, at);
}

static bool in_folder(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

static int crash_fsync(void *s, int fd)
{
    struct crash_fs *c = s;
    if (down(c))
        return -c->code;
    c->file[fd].dirty = false;
    for (unsigned i = 0; i < c->change_count; i++)   /* of a folder: the names in it are durable */
        if (in_folder(c->change[i].to[0] ? c->change[i].to : c->change[i].path, c->file[fd].path))
            c->change[i].durable = true;
    return fs_real.fsync(NULL, fd);
}

static int crash_close(void *s, int fd)
{
    struct crash_fs *c = s;
    bool fails = down(c);
    c->file[fd].open = false;
    if (c->file[fd].dirty)   /* remember: closed, not synced */
        note(c, MADE, c->file[fd].path, NULL)->durable = false;
    int rc = fs_real.close(NULL, fd);
    return fails ? -c->code : rc;
}

static int crash_rename(void *s, const char *a, const char *b)
{
    struct crash_fs *c = s;
    if (down(c))
        return -c->code;
    int rc = fs_real.rename(NULL, a, b);
    if (rc == 0)
        note(c, RENAMED, a, b);
    return rc;
}

static int crash_link(void *s, const char *a, const char *b)
{
    struct crash_fs *c = s;
    if (down(c))
        return -c->code;
    int rc = fs_real.link(NULL, a, b);
    if (rc == 0)
        note(c, LINKED, a, b);
    return rc;
}

static int crash_unlink(void *s, const char *path) { return down(s) ? -((struct crash_fs *)s)->code : fs_real.unlink(NULL, path); }
static int crash_mkdir(void *s, const char *path, int mode)
{
    struct crash_fs *c = s;
    if (down(c))
        return -c->code;
    int rc = fs_real.mkdir(NULL, path, mode);
    if (rc == 0)
        note(c, MADE, path, NULL);
    return rc;
}

static int crash_rmdir(void *s, const char *path) { return down(s) ? -((struct crash_fs *)s)->code : fs_real.rmdir(NULL, path); }
static int64_t crash_size(void *s, const char *path) { return down(s) ? -((struct crash_fs *)s)->code : fs_real.size(NULL, path); }

static struct fs crash_table(struct crash_fs *c)
{
    return (struct fs){c, crash_open, crash_pwrite, crash_pread, crash_fsync, crash_close, crash_rename, crash_link, crash_unlink, crash_mkdir, crash_rmdir, crash_size};
}

/* The machine comes back: names that no folder sync made durable may be gone, bytes that no sync made durable may be torn or gone. */
static void lose(struct crash_fs *c, enum loss loss)
{
    for (int fd = 0; fd < 64; fd++)
        if (c->file[fd].open) {
            if (c->file[fd].dirty && loss == TEAR_UNSYNCED)
                (void)!truncate(c->file[fd].path, 1000);
            if (c->file[fd].dirty && loss == LOSE_UNSYNCED)
                (void)!truncate(c->file[fd].path, 0);
            fs_real.close(NULL, fd);
        }
    if (loss == LOSE_NOTHING)
        return;
    for (unsigned i = c->change_count; i-- > 0;) {
        struct change *k = &c->change[i];
        if (k->durable)
            continue;
        if (k->kind == RENAMED)
            rename(k->to, k->path);
        else if (k->kind == LINKED)
            unlink(k->to);
        else if (k->kind == MADE && loss == LOSE_UNSYNCED && unlink(k->path) < 0 && errno == EISDIR)
            shell("rm -rf %s", k->path);
    }
}

/* After any crash: either no checkpoint or a right one; the older published one is untouched; a second attempt succeeds. */
static void test_crash_at_every_call(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s, older;
    char dir[128], old[128];
    snprintf(dir, sizeof dir, "%s/onprem/step-00000400", root);
    snprintf(old, sizeof old, "%s/onprem/step-00000200", root);
    assert_ok(sample_open(&s, 400, &e));
    assert_ok(sample_open(&older, 200, &e));
    assert_ok(sample_write(&older, &fs_real, old, &e));
    unsigned images = 0, total = 0;
    bool over = false;
    for (unsigned at = 1; !over; at++) {
        for (int loss = 0; loss < LOSSES; loss++) {
            static struct crash_fs c;
            c = (struct crash_fs){.at = at, .code = EIO};
            struct fs fs = crash_table(&c);
            int rc = sample_write(&s, &fs, dir, &e);
            over = c.calls < at;
            assert_true(!over || rc == 0);
            lose(&c, rc == 0 ? LOSE_UNSYNCED : (enum loss)loss);   /* a published one survives any loss */
            struct ckpt_manifest m;
            struct err why = ERR_INIT;
            int opened = ckpt_open(&fs_real, dir, &m, &why);
            if (opened == 0) {
                ckpt_manifest_fini(&m);
                check_right(dir, &s);
            } else {
                assert_int_equal(opened, ERR_NOT_FOUND);
                assert_true(rc != 0);
            }
            check_right(old, &older);
            struct err again = ERR_INIT;
            if (sample_write(&s, &fs_real, dir, &again) < 0)
                fail_msg("after a crash at call %u: %s", at, again.text);
            check_right(dir, &s);
            shell("rm -rf %s", dir);
            images++;
            total = c.calls;
        }
    }
    fprintf(stderr, "# %u calls, %u crash images\n", total, images);
    assert_true(total > 30 && images >= 3 * total);
    sample_close(&s);
    sample_close(&older);
}

/* One failing call, the program lives on: a clear error, nothing half published, and the next try succeeds. */
static void test_one_failing_call(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct sample s;
    char dir[128];
    snprintf(dir, sizeof dir, "%s/onprem/step-00000400", root);
    assert_ok(sample_open(&s, 400, &e));
    static const int codes[] = {ENOSPC, EIO, EDQUOT};
    bool over = false;
    for (unsigned at = 1; !over; at++)
        for (unsigned k = 0; k < ARRAY_LEN(codes); k++) {
            static struct crash_fs c;
            c = (struct crash_fs){.at = at, .code = codes[k], .once = true};
            struct fs fs = crash_table(&c);
            struct err why = ERR_INIT;
            int rc = sample_write(&s, &fs, dir, &why);
            over = c.calls < at;
            struct ckpt_manifest m;
            if (rc < 0) {
                assert_true(strlen(why.text) > 10);
                struct err none = ERR_INIT;
                if (ckpt_open(&fs_real, dir, &m, &none) == 0) {   /* only the very last calls come after the link */
                    ckpt_manifest_fini(&m);
                    check_right(dir, &s);
                }
            } else {
                check_right(dir, &s);
            }
            assert_ok(sample_write(&s, &fs_real, dir, &e));
            shell("rm -rf %s", dir);
        }
    sample_close(&s);
}

static void test_prune_and_copy(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char dir[128], site[128], to[128];
    struct sample s;
    for (uint64_t step = 100; step <= 500; step += 100) {
        snprintf(dir, sizeof dir, "%s/onprem/step-%08llu", root, (unsigned long long)step);
        assert_ok(sample_open(&s, step, &e));
        assert_ok(sample_write(&s, &fs_real, dir, &e));
        sample_close(&s);
    }
    shell("rm %s/onprem/step-00000500/manifest.json", root);   /* an unfinished one, newer: it stays */
    snprintf(site, sizeof site, "%s/onprem", root);
    struct ckpt_found found[16];
    uint32_t count;
    assert_ok(ckpt_prune(&fs_real, site, 2, 100, &e));         /* one that the report will need */
    assert_ok(ckpt_list(root, found, 16, &count, &e));
    assert_true(count == 4 && found[2].step == 300 && found[3].step == 100);
    assert_ok(ckpt_prune(&fs_real, site, 2, 0, &e));
    assert_ok(ckpt_list(root, found, 16, &count, &e));
    assert_int_equal(count, 3);
    assert_true(found[0].step == 500 && !found[0].published && found[1].step == 400 && found[2].step == 300);
    assert_ok(ckpt_prune(&fs_real, site, 0, 0, &e));   /* never the last one */
    assert_ok(ckpt_list(root, found, 16, &count, &e));
    assert_true(count == 2 && found[1].step == 400);
    snprintf(dir, sizeof dir, "%s/onprem/step-00000400", root);
    snprintf(to, sizeof to, "%s/cloud/step-00000400", root);
    assert_ok(ckpt_copy(&fs_real, dir, to, &e));
    assert_ok(sample_open(&s, 400, &e));
    check_right(to, &s);
    shell("rm %s/manifest.json && truncate -s 5 %s/part-0001-00000400-00.h5", to, to);   /* a copy that broke off goes on */
    assert_ok(ckpt_copy(&fs_real, dir, to, &e));
    check_right(to, &s);
    shell("rm -rf %s && truncate -s 5 %s/part-0001-00000400-00.h5", to, dir);
    assert_int_equal(ckpt_copy(&fs_real, dir, to, &e), ERR_CORRUPT);
    sample_close(&s);
}

/* After a rollback below them: those of the older generation above the newer one's are void, and must not push out what the run can start from. */
static void test_void_ones_are_neither_newest_nor_kept(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char dir[128], site[128];
    struct ckpt_found found[8];
    uint32_t count;
    snprintf(site, sizeof site, "%s/onprem", root);
    for (uint64_t step = 100; step <= 500; step += 100) {
        struct sample s;
        snprintf(dir, sizeof dir, "%s/onprem/step-%08llu", root, (unsigned long long)step);
        assert_ok(sample_open(&s, step, &e));
        s.meta.generation = step == 200 ? 2 : 1;
        assert_ok(sample_write(&s, &fs_real, dir, &e));
        sample_close(&s);
    }
    struct ckpt_found newest;
    struct ckpt_manifest m;
    assert_ok(ckpt_newest(&fs_real, root, &newest, &m, NULL, NULL, NULL, &e));   /* what `viaduct export RUN` takes */
    assert_int_equal(newest.step, 200);
    ckpt_manifest_fini(&m);
    assert_ok(ckpt_prune(&fs_real, site, 2, 0, &e));
    assert_ok(ckpt_list(root, found, 8, &count, &e));
    assert_true(count == 5 && found[3].step == 200 && found[3].published && found[4].step == 100);   /* parts of the new generation may lie beside a void manifest */
    assert_ok(ckpt_prune(&fs_real, site, 1, 0, &e));
    assert_ok(ckpt_list(root, found, 8, &count, &e));
    assert_true(count == 4 && found[3].step == 200);
}

static void count_damaged(void *arg, const char *text)
{
    assert_non_null(strstr(text, "cloud"));
    ++*(unsigned *)arg;
}

/* A disk that is not there, a folder of somebody else's: another site's older copy serves, but not without a word. */
static void test_a_folder_that_cannot_be_read_is_told(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct ckpt_found found[4], newest;
    struct ckpt_manifest m;
    uint32_t count;
    unsigned damaged = 0;
    char dir[128];
    struct sample s;
    snprintf(dir, sizeof dir, "%s/onprem/step-00000100", root);
    assert_ok(sample_open(&s, 100, &e));
    assert_ok(sample_write(&s, &fs_real, dir, &e));
    sample_close(&s);
    shell("ln -s /nowhere %s/cloud && touch %s/README", root, root);
    assert_int_equal(ckpt_list(root, found, 4, &count, &e), ERR_NOT_FOUND);
    assert_true(count == 1 && found[0].published && strstr(e.text, "cloud"));
    assert_ok(ckpt_newest(&fs_real, root, &newest, &m, NULL, count_damaged, &damaged, &e));
    assert_true(newest.step == 100 && damaged == 1);
    ckpt_manifest_fini(&m);
}

static void test_of_too_many_the_newest_are_listed(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct ckpt_found found[4];
    uint32_t count;
    for (unsigned i = 1; i <= 40; i++)
        shell("mkdir -p %s/%s/step-%08u", root, i % 2 ? "onprem" : "cloud", i * 7 % 41);
    assert_ok(ckpt_list(root, found, 4, &count, &e));
    assert_int_equal(count, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(found[i].step, 40 - i);
    assert_ok(ckpt_list_step(root, 9, found, 4, &count, &e));
    assert_true(count == 1 && found[0].step == 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_and_read_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_is_named_and_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_folder_that_cannot_be_read_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_void_ones_are_neither_newest_nor_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_of_too_many_the_newest_are_listed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_manifest_decoder_refuses, set_up, tear_down),
        cmocka_unit_test(test_golden_manifest_version_1),
        cmocka_unit_test_setup_teardown(test_crash_at_every_call, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_failing_call, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prune_and_copy, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("checkpoints", tests, NULL, NULL);
}
