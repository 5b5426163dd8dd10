/* The registry: what a card must say, versions given once, aliases as a stack under compare-and-set, a log that shows any change, files that follow whatever dies. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <jansson.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "export/export.h"
#include "export/parts.h"
#include "export/registry_db.h"
#include "export/serving.h"

static const struct model_config config = {.family = MODEL_CNN, .classes = 5, .channels = 1, .height = 9, .width = 7, .conv_count = 2, .conv = {3, 8},
                                           .hidden_count = 1, .hidden = {6}, .batch_norm = true, .mean = {0.4f}, .deviation = {0.3f, 1, 1, 1}};

/* ---- a place with runs that exported, and a registry ---- */
struct place { char dir[64], root[80], run[2][80]; struct registry *r; };

static char *card_text(size_t *size)
{
    struct err e = ERR_INIT;
    void *text;
    assert_ok(fs_read_file(&fs_real, "tests/fixtures/model-card.json", CARD_MAX, &text, size, &e));
    return text;
}

static void make_run(const char *dir, uint64_t seed)
{
    struct err e = ERR_INIT;
    struct exported_model m = {.config = config};
    char path[160], sha256[SHA256_HEX];
    int64_t bytes;
    size_t size;
    assert_ok(graph_build(&config, &m.graph, &e));
    assert_ok(graph_layout(m.graph, &m.layout, &e));
    m.weights_bytes = m.layout.elems * sizeof(float);
    m.weights = pages_alloc(m.weights_bytes, &e);
    graph_init_weights(m.graph, &m.layout, seed, m.weights);
    snprintf(path, sizeof path, "%s/export/float", dir);
    assert_ok(exported_model_write(&m, path, EXPORT_ONNX, &e));
    exported_model_close(&m);
    snprintf(path, sizeof path, "%s/export/float/model.onnx", dir);
    assert_ok(file_sha256(path, sha256, &bytes, &e));
    char *text = card_text(&size);
    json_t *card = json_loads(text, 0, NULL), *export = json_object_get(card, "export");
    json_object_set_new(export, "quantized", json_null());
    json_object_set_new(json_object_get(export, "float"), "sha256", json_string(sha256));
    json_object_set_new(json_object_get(export, "float"), "bytes", json_integer(bytes));
    free(text);
    text = json_dumps(card, 0);
    snprintf(path, sizeof path, "%s/export/card", dir);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/export/card/model-card.json", dir);
    assert_ok(fs_write_file(&fs_real, path, text, strlen(text), &e));
    free(text);
    json_decref(card);
}

static void place_open(struct place *p)
{
    /* Syncs are made as ever, but of memory where there is a file system of it: this is about processes that die, not about disks. */
    snprintf(p->dir, sizeof p->dir, "%s/registry-test-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->root, sizeof p->root, "%s/models", p->dir);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(p->run[i], sizeof p->run[i], "%s/run%u", p->dir, i);
        make_run(p->run[i], i + 1);
    }
    p->r = NULL;
}

static void remove_all(const char *path)
{
    char below[600];
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, f->d_name);
        remove_all(below);
    }
    if (d)
        closedir(d);
    remove(path);
}

static void place_close(struct place *p)
{
    registry_close(p->r);
    remove_all(p->dir);
}

static int enter(struct registry *r, const char *run, int64_t *version, struct err *e)
{
    static struct registry_version v;
    int rc = registry_register(r, run, NULL, &v, e);
    *version = v.version;
    return rc;
}

static int move(struct registry *r, int64_t to, int64_t expect, struct err *e)
{
    struct registry_move m = {.model = "small", .alias = REGISTRY_CHAMPION, .version = to, .expect = expect};
    int64_t was, is;
    return registry_move(r, &m, &was, &is, e);
}

static void two_versions(struct place *p)
{
    struct err e = ERR_INIT;
    int64_t version;
    place_open(p);
    assert_ok(registry_open(p->root, true, &p->r, &e));
    for (int64_t i = 0; i < 2; i++) {
        assert_ok(enter(p->r, p->run[i], &version, &e));
        assert_int_equal(version, i + 1);
    }
}

static int see_alias(void *arg, const struct registry_alias *a, struct err *e)
{
    (void)e;
    *(int64_t *)arg = a->version;
    return 0;
}

static int64_t stands(struct registry *r)
{
    struct err e = ERR_INIT;
    int64_t at = 0;
    assert_ok(registry_aliases(r, "small", see_alias, &at, &e));
    return at;
}

/* The version that a server is told of; 0: none. */
static int64_t served(const struct place *p)
{
    struct err e = ERR_INIT;
    char path[200];
    void *text;
    size_t size;
    snprintf(path, sizeof path, "%s/triton/small/config.pbtxt", p->root);
    if (fs_read_file(&fs_real, path, 1 << 20, &text, &size, &e) < 0)
        return 0;
    const char *at = strstr(text, "versions: [ ");
    int64_t version = at ? strtoll(at + 12, NULL, 10) : 0;
    free(text);
    return version;
}

/* What a server is told of is there. */
static bool is_whole(const struct place *p)
{
    char path[200];
    snprintf(path, sizeof path, "%s/triton/small/%lld/model.onnx", p->root, (long long)served(p));
    return served(p) == 0 || access(path, R_OK) == 0;
}

static void ignore(void *arg, const char *text) { (void)text, ++*(unsigned *)arg; }

static unsigned wrong(struct registry *r)
{
    struct err e = ERR_INIT;
    unsigned files, count = 0;
    registry_verify(r, ignore, &count, &files, &e);
    return count;
}

static int count_line(void *arg, const struct registry_audit *a, struct err *e) { (void)e, ++*(int64_t *)arg; return a->position > 0 ? 0 : -1; }

static int64_t lines(struct registry *r)
{
    struct err e = ERR_INIT;
    char head[SHA256_HEX];
    int64_t n = 0;
    assert_ok(registry_audit(r, NULL, count_line, &n, head, &e));
    return n;
}

/* ---- tests ---- */
static void test_names(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "0", "fashion-mnist", "a-", "0123456789012345678901234567890123456789012345678901234567890ab"};
    static const char *const bad[] = {"", "-a", "A", "a.b", "a/b", "..", "a b", "a\n", "é", "0123456789012345678901234567890123456789012345678901234567890abc"};
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        assert_true(registry_name_ok(good[i]));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(registry_name_ok(bad[i]));
}

/* Each thing that a version is known by, taken away or made another kind of value. */
static void test_card(void **state)
{
    (void)state;
    static const char *const needed[][3] = {{"name"}, {"input", "shape"}, {"output", "shape"}, {"export"}, {"export", "quantized", "sha256"}, {"export", "quantized", "bytes"},
                                            {"lineage", "step"}, {"lineage", "generation"}, {"lineage", "spec_sha256"}, {"lineage", "weights_sha256"}, {"lineage", "exported_sha256"}};
    struct err e = ERR_INIT;
    static struct registry_version v;
    size_t size;
    char *text = card_text(&size);
    assert_ok(registry_card_decode(text, size, &v, &e));
    assert_string_equal(v.model, "small");
    assert_string_equal(v.kind, "quantized");
    assert_true(v.sha256[0] == 'b' && v.data_sha256[0] == 'c' && v.exported_sha256[0] == 'd' && v.spec_sha256[0] == 'e' && v.weights_sha256[0] == 'f' && !*v.commit);
    assert_true(v.accuracy == 0.899 && v.accuracy_float == 0.9 && v.drop == 0.001 && v.bytes == 1000 && v.step == 60);
    assert_true(v.channels == 1 && v.height == 9 && v.width == 7 && v.classes == 5);
    for (unsigned i = 0; i < 2 * ARRAY_LEN(needed); i++) {
        const char *const *path = needed[i / 2];
        json_t *card = json_loads(text, 0, NULL), *o = card;
        unsigned k = 0;
        for (; k < 2 && path[k + 1]; k++)
            o = json_object_get(o, path[k]);
        assert_int_equal(i % 2 ? json_object_set_new(o, path[k], json_true()) : json_object_del(o, path[k]), 0);
        char *less = json_dumps(card, 0);
        assert_int_equal(registry_card_decode(less, strlen(less), &v, &e), ERR_CORRUPT);
        free(less);
        json_decref(card);
    }
    char *passed = strstr(text, "true");
    memcpy(passed, "null", 4);
    assert_int_equal(registry_card_decode(text, size, &v, &e), ERR_JOB);
    assert_int_equal(registry_card_decode(text, size / 2, &v, &e), ERR_CORRUPT);
    free(text);
}

/* Names of ours become names that Kubernetes takes, and no placeholder is left. */
static void test_manifests(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"small", "\"small\""}, {"2nd", "\"model-2nd\""}, {"a--", "\"a\""},
                                           {"012345678901234567890123456789012345678901234567890123456789-ab", "\"model-012345678901234567890123456789012345678901234567890123456\""}};
    static const char *const files[] = {"deployment.yaml", "service.yaml", "hpa.yaml", "pdb.yaml", "inferenceservice.yaml", "Dockerfile"};
    struct err e = ERR_INIT;
    char dir[] = "/tmp/registry-test-XXXXXX", path[100];
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        struct served s = {.folder = names[i][0], .model = names[i][0], .version = 7, .channels = 1, .height = 9, .width = 7, .classes = 5, .sha256 = "ab", .dockerfile = "serving/Dockerfile"};
        assert_ok(serving_write(&s, dir, &e));
        for (unsigned f = 0; f < ARRAY_LEN(files); f++) {
            void *text;
            size_t size;
            snprintf(path, sizeof path, "%s/%s", dir, files[f]);
            assert_ok(fs_read_file(&fs_real, path, 1 << 20, &text, &size, &e));
            assert_null(strchr(text, '@'));
            assert_non_null(strstr(text, names[i][1]));
            free(text);
        }
    }
    remove_all(dir);
}

static void test_versions_are_given_once(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    int64_t version;
    two_versions(&p);
    assert_ok(enter(p.r, p.run[0], &version, &e));
    assert_int_equal(version, 1);
    assert_int_equal(lines(p.r), 2);
    assert_int_equal(served(&p), 0);
    make_run(p.run[0], 3);                           /* exported anew, with other bytes */
    assert_ok(enter(p.r, p.run[0], &version, &e));
    assert_int_equal(version, 3);
    assert_int_equal(wrong(p.r), 0);
    place_close(&p);
}

static void test_aliases_are_a_stack(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    two_versions(&p);
    assert_int_equal(move(p.r, 0, -1, &e), ERR_NOT_FOUND);
    assert_int_equal(move(p.r, 1, 2, &e), ERR_CONFLICT);
    static const int64_t steps[][2] = {{1, 1}, {2, 2}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {2, 2}, {0, 1}};   /* to (0: back), where it stands then */
    int64_t at = 0;
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        assert_int_equal(move(p.r, steps[i][0], 9, &e), ERR_CONFLICT);
        assert_ok(move(p.r, steps[i][0], at, &e));
        at = steps[i][1];
        assert_int_equal(stands(p.r), at);
        assert_int_equal(served(&p), at);
        assert_int_equal(wrong(p.r), 0);
    }
    assert_int_equal(move(p.r, 0, -1, &e), ERR_NOT_FOUND);
    assert_int_equal(lines(p.r), 2 + ARRAY_LEN(steps) - 1);   /* one promote was to where it stood */
    place_close(&p);
}

/* Registered, promoted and rolled back by processes that die at each point in turn: what the next one finds is whole, and it comes to the same end. */
static void in_child(const struct place *p, const char *point)
{
    struct err e = ERR_INIT;
    struct registry *r;
    int64_t version;
    setenv("VIADUCT_FAILPOINT", point, 1);
    CHECK(!failpoint_init(p->dir));
    if (registry_open(p->root, true, &r, &e) < 0 || enter(r, p->run[0], &version, &e) < 0 || (stands(r) == 0 && move(r, 1, 0, &e) < 0) ||
        enter(r, p->run[1], &version, &e) < 0 || (stands(r) == 1 && move(r, 2, 1, &e) < 0) || move(r, 0, 2, &e) < 0) {
        fprintf(stderr, "# %s\n", e.text);
        _exit(1);
    }
    _exit(0);
}

static void test_killed_anywhere(void **state)
{
    (void)state;
    static const char *const names[] = {"export-rename", "registry-stored", "registry-moved", "registry-render"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        bool over = false;
        for (unsigned pass = 1; !over; pass++) {
            struct err e = ERR_INIT;
            struct place p;
            char point[64];
            int status;
            place_open(&p);
            snprintf(point, sizeof point, "%s:kill:%u", names[i], pass);
            pid_t child = fork();
            if (child == 0)
                in_child(&p, point);
            waitpid(child, &status, 0);
            over = WIFEXITED(status);
            assert_true(!over || WEXITSTATUS(status) == 0);
            assert_true(over || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
            assert_true(pass > 1 || !over);          /* the point is passed */
            assert_true(is_whole(&p));               /* for a server that reads it now, before anybody completes it */
            assert_ok(registry_open(p.root, true, &p.r, &e));
            assert_ok(registry_complete(p.r, &e));
            assert_int_equal(served(&p), stands(p.r));
            assert_int_equal(wrong(p.r), 0);
            if (!over && stands(p.r) == 0) {
                int64_t version;
                assert_ok(enter(p.r, p.run[0], &version, &e));
                assert_int_equal(version, 1);
                assert_ok(move(p.r, 1, 0, &e));
                assert_int_equal(served(&p), 1);
            }
            place_close(&p);
        }
    }
}

/* A promote that has looked where the alias stands, and then waits while another moves it there and back. */
static void test_moved_meanwhile(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    int status;
    two_versions(&p);
    assert_ok(move(p.r, 1, 0, &e));
    registry_close(p.r);
    pid_t child = fork();
    if (child == 0) {
        struct registry *r;
        setenv("VIADUCT_FAILPOINT", "registry-verified:stop", 1);
        CHECK(!failpoint_init(p.dir));
        CHECK(registry_open(p.root, false, &r, &e) == 0);
        _exit(-move(r, 2, 1, &e));
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_ok(registry_open(p.root, false, &p.r, &e));
    assert_ok(move(p.r, 2, 1, &e));
    assert_ok(move(p.r, 0, 2, &e));
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), -ERR_CONFLICT);
    assert_int_equal(stands(p.r), 1);
    assert_int_equal(lines(p.r), 5);
    place_close(&p);
}

/* A version whose file is lost while its alias is not rendered yet: told, and no obstacle to another one. */
static void test_lost_while_behind(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    char path[200];
    int status;
    two_versions(&p);
    pid_t child = fork();
    if (child == 0) {
        setenv("VIADUCT_FAILPOINT", "registry-moved:kill", 1);
        CHECK(!failpoint_init(p.dir));
        move(p.r, 1, 0, &e);
        _exit(0);
    }
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    snprintf(path, sizeof path, "%s/store/small/1/model.onnx", p.root);
    assert_int_equal(unlink(path), 0);
    assert_true(registry_complete(p.r, &e) < 0);
    assert_int_equal(served(&p), 0);
    static struct registry_version other;            /* no concern of another model */
    assert_ok(registry_register(p.r, p.run[0], "other", &other, &e));
    assert_ok(registry_move(p.r, &(struct registry_move){.model = "other", .alias = REGISTRY_CHAMPION, .version = 1, .expect = -1}, &(int64_t){0}, &(int64_t){0}, &e));
    assert_ok(move(p.r, 2, 1, &e));
    assert_int_equal(served(&p), 2);
    assert_int_equal(move(p.r, 0, 2, &e), ERR_CORRUPT);   /* back to the lost one */
    assert_int_equal(served(&p), 2);
    place_close(&p);
}

/* Moved, and no room for what servers read: the error says both, and the next verb makes up for it. */
static void test_not_rendered(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    char path[200];
    two_versions(&p);
    snprintf(path, sizeof path, "%s/serving", p.root);
    assert_ok(fs_write_file(&fs_real, path, "", 0, &e));   /* in the way of a folder */
    assert_true(move(p.r, 2, 0, &e) < 0);
    assert_non_null(strstr(e.text, "'champion' of model 'small' stands at version 2, but"));
    assert_int_equal(stands(p.r), 2);
    assert_int_equal(unlink(path), 0);
    assert_ok(registry_complete(p.r, &e));
    assert_int_equal(served(&p), 2);
    assert_int_equal(wrong(p.r), 0);
    place_close(&p);
}

/* Any file that a server reads, edited, taken away, or a link: found, and made anew by a promote to where the alias stands. */
static void test_changed_files(void **state)
{
    (void)state;
    static const char *const files[] = {"triton/small/config.pbtxt", "triton/small/labels.txt", "triton/small/1/model.onnx", "serving/small/deployment.yaml", "serving/small/service.yaml",
                                        "serving/small/hpa.yaml", "serving/small/pdb.yaml", "serving/small/inferenceservice.yaml", "serving/small/Dockerfile"};
    struct err e = ERR_INIT;
    struct place p;
    char path[200], kept[200];
    two_versions(&p);
    assert_ok(move(p.r, 1, 0, &e));
    snprintf(kept, sizeof kept, "%s/kept", p.dir);
    assert_ok(fs_mkdirs(&fs_real, kept, &e));
    snprintf(kept, sizeof kept, "%s/kept/file", p.dir);
    assert_ok(fs_write_file(&fs_real, kept, "", 0, &e));
    for (unsigned i = 0; i < 3 * ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", p.root, files[i / 3]);
        assert_int_equal(unlink(path), 0);
        if (i % 3 == 1)
            assert_ok(fs_write_file(&fs_real, path, "edited", 6, &e));
        if (i % 3 == 2)
            assert_int_equal(symlink(kept, path), 0);
        assert_int_equal(wrong(p.r), 1);
        snprintf(path, sizeof path, "%s/staging", p.root);
        assert_int_equal(symlink("../kept", path), 0);
        assert_ok(move(p.r, 1, 1, &e));
        assert_int_equal(wrong(p.r), 0);
        assert_int_equal(access(kept, F_OK), 0);
    }
    snprintf(path, sizeof path, "%s/serving/small~trash", p.root);   /* where two names cannot be exchanged: what a replaced folder became */
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    assert_ok(move(p.r, 1, 1, &e));
    assert_int_not_equal(access(path, F_OK), 0);
    place_close(&p);
}

/* Somebody who looks, through a pager perhaps, or reads every file, keeps nobody from a promote. */
static int promote_meanwhile(const char *root)
{
    struct err e = ERR_INIT;
    struct registry *r;
    int status;
    pid_t child = fork();
    if (child == 0) {
        CHECK(registry_open(root, false, &r, &e) == 0);
        _exit(-move(r, 3 - stands(r), -1, &e));
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int at_version(void *arg, const struct registry_version *v, const char *aliases, struct err *e) { (void)v, (void)aliases, (void)e; return promote_meanwhile(arg); }
static int at_alias(void *arg, const struct registry_alias *a, struct err *e) { (void)a, (void)e; return promote_meanwhile(arg); }
static int at_line(void *arg, const struct registry_audit *a, struct err *e) { (void)a, (void)e; return promote_meanwhile(arg); }

static void test_looking_holds_nobody_up(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    char head[SHA256_HEX];
    two_versions(&p);
    assert_ok(move(p.r, 1, 0, &e));
    assert_ok(registry_versions(p.r, NULL, at_version, p.root, &e));
    assert_ok(registry_aliases(p.r, NULL, at_alias, p.root, &e));
    assert_int_equal(stands(p.r), 2);
    assert_ok(registry_audit(p.r, NULL, at_line, p.root, head, &e));
    assert_int_equal(lines(p.r), 3 + 2 + 1 + 6);
    assert_int_equal(wrong(p.r), 0);
    place_close(&p);
}

/* The database was lost, or put back older: what it does not know is not overwritten under its number. */
static void test_lost_database(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    char path[200], sha256[2][SHA256_HEX];
    int64_t bytes, version;
    two_versions(&p);
    registry_close(p.r);
    snprintf(path, sizeof path, "%s/registry.db", p.root);
    assert_int_equal(unlink(path), 0);
    assert_ok(registry_open(p.root, true, &p.r, &e));
    snprintf(path, sizeof path, "%s/store/small/1/model.onnx", p.root);
    assert_ok(file_sha256(path, sha256[0], &bytes, &e));
    assert_int_equal(enter(p.r, p.run[1], &version, &e), ERR_CONFLICT);
    assert_ok(file_sha256(path, sha256[1], &bytes, &e));
    assert_string_equal(sha256[0], sha256[1]);
    assert_int_equal(lines(p.r), 0);
    place_close(&p);
}

/* Other aliases are served beside the champion, whatever they are called. */
static void test_aliases_side_by_side(void **state)
{
    (void)state;
    static const char *const names[] = {"trash", "tmp", "canary"};
    struct err e = ERR_INIT;
    struct place p;
    int64_t was, is;
    two_versions(&p);
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        assert_ok(registry_move(p.r, &(struct registry_move){.model = "small", .alias = names[i], .version = 2, .expect = 0}, &was, &is, &e));
    for (int64_t to = 1; to < 3; to++) {
        assert_ok(move(p.r, to, -1, &e));
        assert_int_equal(served(&p), to);
        assert_int_equal(wrong(p.r), 0);
    }
    place_close(&p);
}

static int see_reason(void *arg, const struct registry_audit *a, struct err *e)
{
    (void)e;
    snprintf(arg, REGISTRY_REASON_MAX, "%s", a->reason);
    return 0;
}

/* Nobody writes a line of the log into another one's reason. */
static void test_reason_is_one_line(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    char head[SHA256_HEX], reason[REGISTRY_REASON_MAX];
    int64_t was, is;
    two_versions(&p);
    struct registry_move m = {.model = "small", .alias = REGISTRY_CHAMPION, .version = 1, .expect = -1, .reason = "a\n5\tb\033[2J\r"};
    assert_ok(registry_move(p.r, &m, &was, &is, &e));
    assert_ok(registry_audit(p.r, NULL, see_reason, reason, head, &e));
    assert_string_equal(reason, "a 5 b?[2J?");
    place_close(&p);
}

/* Many processes move one alias by compare-and-set: as many succeed as there are lines, and each success changed what it expected. */
static void test_many_at_once(void **state)
{
    (void)state;
    enum { PROCESSES = 4, TURNS = 8 };
    struct err e = ERR_INIT;
    struct place p;
    two_versions(&p);
    assert_ok(move(p.r, 1, 0, &e));
    registry_close(p.r);
    pid_t child[PROCESSES];
    for (unsigned i = 0; i < PROCESSES; i++)
        if ((child[i] = fork()) == 0) {
            struct registry *r;
            int wins = 0;
            CHECK(registry_open(p.root, false, &r, &e) == 0);
            for (unsigned t = 0; t < TURNS; t++) {
                int64_t at = stands(r);
                int rc = move(r, 3 - at, at, &e);
                CHECK(rc == 0 || rc == ERR_CONFLICT);
                wins += rc == 0;
            }
            _exit(wins);
        }
    int64_t wins = 0;
    for (unsigned i = 0; i < PROCESSES; i++) {
        int status;
        waitpid(child[i], &status, 0);
        assert_true(WIFEXITED(status));
        wins += WEXITSTATUS(status);
    }
    assert_ok(registry_open(p.root, false, &p.r, &e));
    assert_true(wins >= TURNS);
    assert_int_equal(lines(p.r), 3 + wins);
    assert_int_equal(stands(p.r), wins % 2 ? 2 : 1);
    assert_int_equal(served(&p), stands(p.r));
    assert_int_equal(wrong(p.r), 0);
    place_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_card), cmocka_unit_test(test_manifests), cmocka_unit_test(test_versions_are_given_once),
        cmocka_unit_test(test_aliases_are_a_stack), cmocka_unit_test(test_killed_anywhere), cmocka_unit_test(test_moved_meanwhile), cmocka_unit_test(test_lost_while_behind),
        cmocka_unit_test(test_not_rendered), cmocka_unit_test(test_changed_files), cmocka_unit_test(test_looking_holds_nobody_up), cmocka_unit_test(test_lost_database), cmocka_unit_test(test_aliases_side_by_side), cmocka_unit_test(test_reason_is_one_line), cmocka_unit_test(test_many_at_once),
    };
    return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
