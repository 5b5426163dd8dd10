/* Tokens and what they buy: good once, cut off anywhere, kept over a start of the run; a folder that a full disk left half written is not enrolled. */
#include "tests/unit/unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/coordinator.h"
#include "net/net.h"

#define JOB "job-a"
#define SITE "edge"

struct room { char dir[64], run[96], visitor[96]; struct job_spec spec; };

static void write_text(const struct room *r, const char *name, const char *text)
{
    struct err e = ERR_INIT;
    char path[200];
    snprintf(path, sizeof path, "%s/%s", r->run, name);
    assert_ok(fs_publish_file(&fs_real, path, text, strlen(text), &e));
}

static int set_up(void **state)
{
    static const enum role roles[] = {ROLE_AGENT, ROLE_WORKER, ROLE_PS, ROLE_EXPORT};
    struct room *r = calloc(1, sizeof *r);
    struct err e = ERR_INIT;
    char tls[128];
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-enrol-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->run, sizeof r->run, "%s/run", r->dir);
    snprintf(r->visitor, sizeof r->visitor, "%s/visitor", r->dir);
    snprintf(tls, sizeof tls, "%s/state/tls", r->visitor);
    assert_ok(fs_mkdirs(&fs_real, tls, &e));
    snprintf(tls, sizeof tls, "%s/state/tls", r->run);
    assert_ok(identity_make_ca(tls, JOB, &e));
    for (unsigned i = 0; i < ARRAY_LEN(roles); i++)
        assert_ok(identity_issue(tls, JOB, SITE, roles[i], &e));
    write_text(r, "spec.yaml", "name: x\n");
    write_text(r, "state/job", JOB "\n");
    write_text(r, "state/sites", SITE "\n");
    r->spec.site_count = 1;
    r->spec.sites[0].name = (char *)(uintptr_t)SITE;
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", r->dir);
    assert_int_equal(system(command), 0);
    free(r);
    return 0;
}

static struct enrol_token token_of(struct room *r, bool another, char path[700])
{
    struct err e = ERR_INIT;
    struct enrol_token t;
    assert_ok(enrol_make_token(r->run, JOB, &r->spec, 0, another, path, &e));
    assert_ok(enrol_read_token(path, r->visitor, &t, &e));
    return t;
}

static bool visitor_has(const struct room *r, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", r->visitor, name);
    return access(path, F_OK) == 0;
}

static void a_token_is_good_once(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    char path[700];
    struct stat st;
    struct enrol_token t = token_of(r, true, path);
    assert_true(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    assert_string_equal(t.site, SITE);
    t.secret[3] = t.secret[3] == 'a' ? 'b' : 'a';
    assert_int_equal(enrol_spend(r->run, SITE, t.secret, &e), ERR_DENIED);
    assert_non_null(strstr(e.text, "not the newest token"));
    assert_int_equal(enrol_spend(r->run, SITE, "", &e), ERR_DENIED);
    t = token_of(r, false, path);
    assert_ok(enrol_spend(r->run, SITE, t.secret, &e));
    assert_int_equal(enrol_spend(r->run, SITE, t.secret, &e), ERR_DENIED);
    assert_non_null(strstr(e.text, "has been used"));
}

/* A run that Slurm requeues, or a person resumes: the token that was carried to the other cluster is still its site's. */
static void a_start_keeps_the_token_that_nobody_has_used(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    char path[700];
    struct enrol_token carried = token_of(r, false, path), again = token_of(r, false, path);
    assert_string_equal(again.secret, carried.secret);
    struct enrol_token other = token_of(r, true, path);
    assert_string_not_equal(other.secret, carried.secret);
    assert_int_equal(enrol_spend(r->run, SITE, carried.secret, &e), ERR_DENIED);
    assert_ok(enrol_spend(r->run, SITE, other.secret, &e));
    assert_string_not_equal(token_of(r, false, path).secret, other.secret);
}

static void a_token_that_is_cut_off_is_none(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct enrol_token t;
    char path[700];
    void *bytes;
    size_t size;
    token_of(r, true, path);
    assert_ok(fs_read_file(&fs_real, path, 1 << 20, &bytes, &size, &e));
    for (size_t cut = 2; cut <= size; cut += 13) {
        assert_ok(fs_publish_file(&fs_real, path, bytes, size - cut, &e));
        if (enrol_read_token(path, r->visitor, &t, &e) != ERR_USAGE)
            fail_msg("%zu of %zu bytes of a token are taken for one", size - cut, size);
    }
    free(bytes);
}

static void what_is_cut_off_leaves_nothing(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    void *image;
    size_t size;
    assert_ok(enrol_pack(r->run, SITE, &image, &size, &e));
    for (size_t n = 0; n < size; n += 7)
        assert_int_equal(enrol_unpack(r->visitor, SITE, image, n, &e), ERR_CORRUPT);
    assert_false(visitor_has(r, "spec.yaml") || visitor_has(r, "state/tls/agent-edge.key"));
    assert_ok(enrol_unpack(r->visitor, SITE, image, size, &e));
    assert_true(visitor_has(r, "state/job") && visitor_has(r, "state/tls/agent-edge.key"));
    free(image);
}

/* The next try asks again, with another token, and takes no half folder for a whole one. */
static void what_cannot_be_written_is_no_enrolment(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    void *image;
    size_t size;
    char in_the_way[200];
    snprintf(in_the_way, sizeof in_the_way, "%s/state/tls/export-edge.key", r->visitor);
    assert_int_equal(mkdir(in_the_way, 0700), 0);
    assert_ok(enrol_pack(r->run, SITE, &image, &size, &e));
    assert_true(enrol_unpack(r->visitor, SITE, image, size, &e) < 0);
    assert_false(visitor_has(r, "state/job"));
    assert_int_equal(rmdir(in_the_way), 0);
    assert_ok(enrol_unpack(r->visitor, SITE, image, size, &e));
    assert_true(visitor_has(r, "state/job"));
    free(image);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_token_is_good_once), T(a_start_keeps_the_token_that_nobody_has_used), T(a_token_that_is_cut_off_is_none), T(what_is_cut_off_leaves_nothing),
        T(what_cannot_be_written_is_no_enrolment),
    };
    return cmocka_run_group_tests_name("enrol", tests, NULL, NULL);
}
