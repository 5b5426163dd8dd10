#include "export/registry.h"

#include <math.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "export/export.h"
#include "export/registry_db.h"
#include "export/registry_files.h"

struct registry { struct registry_db *db; char root[PATH_MAX]; };

bool registry_name_ok(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n > 0 && n < REGISTRY_NAME_MAX && !name[n] && *name != '-';
}

static int check_name(const char *what, const char *name, struct err *err)
{
    return registry_name_ok(name) ? 0 : err_set(err, ERR_USAGE, "'%.70s' is no name of %s: small letters, digits and dashes, starting with a letter or digit, at most %d",
                                                name, what, REGISTRY_NAME_MAX - 1);
}

/* ---- rendering: what the database says and the files do not ---- */
static int render_one(struct registry *r, const struct standing *s, struct err *err)
{
    struct registry_version *v = malloc(sizeof *v);
    CHECK(v != NULL);
    int rc = registry_db_version(r->db, s->alias.model, s->alias.version, v, err);
    if (rc == 0)
        rc = registry_render(r->root, &s->alias, v, err);
    free(v);
    return rc < 0 ? rc : registry_db_rendered(r->db, s, err);
}

/* One that cannot be rendered keeps no other from it; the first error is told. */
static int render_behind(struct registry *r, struct err *err)
{
    struct standing at = {0};
    struct err first = ERR_INIT;
    bool found;
    int rc;
    while ((rc = registry_db_behind(r->db, &at, &found, err)) == 0 && found) {
        struct err why = ERR_INIT;
        if (render_one(r, &at, &why) < 0 && first.code == 0)
            first = why;
    }
    if (rc == 0)
        rc = registry_db_commit(r->db, err);
    if (rc == 0 && first.code)
        *err = first;
    return rc < 0 ? rc : first.code;
}

int registry_complete(struct registry *r, struct err *err)
{
    struct standing at = {0};
    bool found;
    TRY(registry_db_behind(r->db, &at, &found, err));
    if (!found || registry_db_read_only(r->db))
        return 0;
    TRY(registry_db_begin(r->db, err));
    int rc = render_behind(r, err);
    registry_db_abandon(r->db);
    return rc;
}

int registry_open(const char *root, bool create, struct registry **out, struct err *err)
{
    char path[PATH_MAX + 16];
    struct registry *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    snprintf(path, sizeof path, "%s/registry.db", root);
    int rc = snprintf(r->root, sizeof r->root, "%s", root) < (int)sizeof r->root - 300 ? 0 : err_set(err, ERR_USAGE, "the path %s is too long", root);
    if (rc == 0 && !create && access(path, F_OK) < 0)
        rc = err_set(err, ERR_NOT_FOUND, "%s is no registry; `viaduct models register RUN --registry %s`, or export.registry in a spec, makes one", root, root);
    if (rc == 0 && create)
        rc = fs_mkdirs(&fs_real, root, err);
    if (rc == 0 && create)
        rc = fs_fsync_parent(&fs_real, root, err);
    if (rc == 0)
        rc = registry_db_open(path, create, &r->db, err);
    if (rc < 0) {
        registry_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (r)
        registry_db_close(r->db);
    free(r);
}

/* ---- the log ---- */
static int add_line(struct registry *r, const char *action, const char *model, const char *alias, int64_t from, int64_t to, const char *reason, struct err *err)
{
    struct registry_audit a = {.from = from, .to = to, .uid = (int64_t)geteuid()};
    const struct passwd *user = getpwuid(geteuid());
    snprintf(a.action, sizeof a.action, "%s", action);
    snprintf(a.model, sizeof a.model, "%s", model);
    snprintf(a.alias, sizeof a.alias, "%s", alias);
    snprintf(a.user, sizeof a.user, "%s", user ? user->pw_name : "");
    snprintf(a.reason, sizeof a.reason, "%s", reason ? reason : "");
    gethostname(a.host, sizeof a.host - 1);
    text_plain(a.reason);
    for (char *c = a.reason; (c = strpbrk(c, "\n\t"));)   /* a line is a line */
        *c = ' ';
    return registry_db_audit_add(r->db, &a, err);
}

/* ---- register ---- */
static int read_run(const char *run, const char *model, struct registry_version *out, char file[PATH_MAX], struct err *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    if (snprintf(path, sizeof path, "%s/export/card/model-card.json", run) >= (int)sizeof path)
        return err_set(err, ERR_USAGE, "the path %s is too long", run);
    if (fs_read_file(&fs_real, path, CARD_MAX, &text, &size, err) < 0)
        return err_wrap(err, "%s holds no exported model; `viaduct export %s` makes one", run, run);
    int rc = registry_card_decode(text, size, out, err);
    free(text);
    if (rc < 0)
        return err_wrap(err, "%s", path);
    if (model)
        snprintf(out->model, sizeof out->model, "%s", model);
    TRY(check_name("a model", model ? model : out->model, err));
    if (!realpath(run, out->run))
        snprintf(out->run, sizeof out->run, "%s", run);
    time_text(out->created);
    return snprintf(file, PATH_MAX, "%s/export/%s/model.onnx", run, out->kind) < PATH_MAX ? 0 : err_set(err, ERR_USAGE, "the path %s is too long", run);
}

int registry_check_run(const char *run, const char *model, struct err *err)
{
    char file[PATH_MAX];
    struct registry_version *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    int rc = read_run(run, model, v, file, err);
    free(v);
    return rc < 0 ? err_wrap(err, "registering %s", run) : 0;
}

/* That our own engine can open it is part of being registered. */
static int check_file(const char *file, const struct registry_version *v, struct err *err)
{
    struct exported_model m;
    TRY(exported_model_open(file, &m, err));
    const struct model_config *c = &m.config;
    bool same = c->channels == v->channels && c->height == v->height && c->width == v->width && c->classes == v->classes;
    exported_model_close(&m);
    return same ? 0 : err_set(err, ERR_CORRUPT, "%s has other dimensions than its card says", file);
}

static int check_signature(struct registry *r, const struct registry_version *v, struct registry_version *scratch, struct err *err)
{
    bool found;
    TRY(registry_db_first(r->db, v->model, scratch, &found, err));
    if (!found || (scratch->channels == v->channels && scratch->height == v->height && scratch->width == v->width && scratch->classes == v->classes))
        return 0;
    return err_set(err, ERR_CONFLICT, "model '%s' takes %lld x %lld x %lld and has %lld classes, this one takes %lld x %lld x %lld and has %lld: clients would break when an "
                   "alias moves; register it under another name", v->model, (long long)scratch->channels, (long long)scratch->height, (long long)scratch->width,
                   (long long)scratch->classes, (long long)v->channels, (long long)v->height, (long long)v->width, (long long)v->classes);
}

/* In a transaction: files first, then the row. A process that dies between leaves a folder under a number that was never given. */
static int enter(struct registry *r, struct registry_version *v, const char *file, struct registry_version *scratch, struct err *err)
{
    struct standing champion;
    struct err damaged = ERR_INIT;   /* then it is replaced */
    bool found;
    TRY(registry_db_same(r->db, v, scratch, &found, err));
    if (found) {
        *v = *scratch;
        return registry_store_verify(r->root, v, &damaged) < 0 ? registry_store(r->root, v, file, err) : 0;
    }
    TRY(check_signature(r, v, scratch, err));
    TRY(registry_db_next(r->db, v->model, &v->version, err));
    TRY(registry_db_standing(r->db, v->model, REGISTRY_CHAMPION, &champion, err));
    v->parent = champion.alias.version;
    TRY(registry_store_check(r->root, v, err));
    TRY(registry_store(r->root, v, file, err));
    failpoint(FAIL_REGISTRY_STORED);
    TRY(registry_db_insert(r->db, v, err));
    char what[80];                   /* so that the log's chain covers every file */
    snprintf(what, sizeof what, "sha256 %s", v->sha256);
    return add_line(r, "register", v->model, "", 0, v->version, what, err);
}

int registry_register(struct registry *r, const char *run, const char *model, struct registry_version *out, struct err *err)
{
    char file[PATH_MAX];
    struct registry_version *v = calloc(2, sizeof *v);
    CHECK(v != NULL);
    int rc = read_run(run, model, &v[0], file, err);
    if (rc == 0)
        rc = check_file(file, &v[0], err);
    if (rc == 0)
        rc = registry_db_begin(r->db, err);
    if (rc == 0)
        rc = enter(r, &v[0], file, &v[1], err);
    if (rc == 0)
        rc = registry_db_commit(r->db, err);
    registry_db_abandon(r->db);
    if (rc == 0)
        *out = v[0];
    free(v);
    return rc < 0 ? err_wrap(err, "registering %s", run) : 0;
}

/* ---- promote and rollback ---- */
static int target_of(struct registry *r, const struct registry_move *m, const struct standing *was, int64_t *to, struct err *err)
{
    *to = m->version ? m->version : was->alias.previous;
    if (m->expect >= 0 && m->expect != was->alias.version)
        return was->alias.version ? err_set(err, ERR_CONFLICT, "alias '%s' of model '%s' stands at version %lld, not at %lld", m->alias, m->model,
                                            (long long)was->alias.version, (long long)m->expect)
                                  : err_set(err, ERR_CONFLICT, "alias '%s' of model '%s' stands nowhere yet, not at version %lld", m->alias, m->model, (long long)m->expect);
    if (*to == 0 && was->depth == 0) {
        struct registry_version *v = malloc(sizeof *v);   /* says which of the two is unknown */
        CHECK(v != NULL);
        int rc = registry_db_version(r->db, m->model, 1, v, err);
        free(v);
        return rc < 0 ? rc : err_set(err, ERR_NOT_FOUND, "model '%s' has no alias '%s' yet: viaduct models promote %s VERSION --alias %s", m->model, m->alias, m->model, m->alias);
    }
    return *to ? 0 : err_set(err, ERR_NOT_FOUND, "alias '%s' of model '%s' stands at version %lld and stood nowhere before: there is nothing to go back to", m->alias, m->model,
                             (long long)was->alias.version);
}

static int verify_target(struct registry *r, const char *model, int64_t version, struct err *err)
{
    struct registry_version *v = malloc(sizeof *v);
    CHECK(v != NULL);
    int rc = registry_db_version(r->db, model, version, v, err);
    if (rc == 0 && (rc = registry_store_verify(r->root, v, err)) < 0)
        rc = err_wrap(err, "version %lld of '%s' is not promoted; if its run %.200s is whole, `viaduct models register` of it repairs the copy", (long long)version, model, v->run);
    free(v);
    return rc;
}

static int move(struct registry *r, const struct registry_move *m, const struct standing *was, int64_t to, struct err *err)
{
    TRY(registry_db_begin(r->db, err));
    TRY(registry_db_move(r->db, was, to, m->version == 0, err));
    TRY(add_line(r, m->version ? "promote" : "rollback", m->model, m->alias, was->alias.version, to, m->reason, err));
    return registry_db_commit(r->db, err);
}

/* Also where it stood already: files that someone changed are made anew. */
static int render_now(struct registry *r, const struct registry_move *m, struct err *err)
{
    struct standing now;
    TRY(registry_db_begin(r->db, err));
    int rc = registry_db_standing(r->db, m->model, m->alias, &now, err);
    if (rc == 0)
        rc = render_one(r, &now, err);
    if (rc == 0)
        rc = registry_db_commit(r->db, err);
    registry_db_abandon(r->db);
    return rc;
}

int registry_move(struct registry *r, const struct registry_move *m, int64_t *from, int64_t *to, struct err *err)
{
    struct standing was;
    TRY(check_name("a model", m->model, err));
    TRY(check_name("an alias", m->alias, err));
    if (m->reason && strlen(m->reason) >= REGISTRY_REASON_MAX)
        return err_set(err, ERR_USAGE, "the reason has more than %d bytes", REGISTRY_REASON_MAX - 1);
    TRY(registry_db_standing(r->db, m->model, m->alias, &was, err));
    TRY(target_of(r, m, &was, to, err));
    *from = was.alias.version;
    TRY(verify_target(r, m->model, *to, err));
    if (m->version && *from == *to)
        return render_now(r, m, err);
    failpoint(FAIL_REGISTRY_VERIFIED);
    int rc = move(r, m, &was, *to, err);
    registry_db_abandon(r->db);
    if (rc < 0)
        return rc;
    failpoint(FAIL_REGISTRY_MOVED);
    if ((rc = render_now(r, m, err)) < 0)
        err_wrap(err, "'%s' of model '%s' stands at version %lld, but not all that servers read shows it; the next `viaduct models` verb completes it", m->alias, m->model,
                 (long long)*to);
    return rc;
}

/* ---- looking ---- */
int registry_versions(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_version *v, const char *aliases, struct err *err),
                      void *arg, struct err *err)
{
    return registry_db_versions(r->db, model, visit, arg, err);
}

struct alias_visit { int (*visit)(void *arg, const struct registry_alias *a, struct err *err); void *arg; };
static int visit_alias(void *arg, const struct standing *s, struct err *err)
{
    const struct alias_visit *to = arg;
    return to->visit(to->arg, &s->alias, err);
}

int registry_aliases(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_alias *a, struct err *err), void *arg, struct err *err)
{
    struct alias_visit to = {visit, arg};
    return registry_db_standings(r->db, model, visit_alias, &to, err);
}

struct audit_visit { const char *model; int (*visit)(void *arg, const struct registry_audit *a, struct err *err); void *arg; };
static int visit_line(void *arg, const struct registry_audit *a, struct err *err)
{
    const struct audit_visit *to = arg;
    return to->visit && (!to->model || strcmp(to->model, a->model) == 0) ? to->visit(to->arg, a, err) : 0;
}

int registry_audit(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_audit *a, struct err *err), void *arg, char head[SHA256_HEX],
                   struct err *err)
{
    struct audit_visit to = {model, visit, arg};
    return registry_db_audit(r->db, visit_line, &to, head, err);
}

/* ---- verify ---- */
struct verify { struct registry *r; void (*wrong)(void *arg, const char *text); void *arg; unsigned *files, bad; };

static void note(struct verify *v, int rc, const struct err *why)
{
    ++*v->files;
    if (rc < 0) {
        v->bad++;
        v->wrong(v->arg, why->text);
    }
}

static int verify_version(void *arg, const struct registry_version *v, const char *aliases, struct err *err)
{
    struct verify *to = arg;
    struct err why = ERR_INIT;
    (void)aliases, (void)err;
    note(to, registry_store_verify(to->r->root, v, &why), &why);
    return 0;
}

/* Wrong, unless it is moved or rendered meanwhile: then what it is now counts. */
static int verify_alias(void *arg, const struct standing *s, struct err *err)
{
    struct verify *to = arg;
    struct err why = ERR_INIT, late = ERR_INIT;   /* what cannot be rendered is told as what is wrong */
    struct standing now = *s, before;
    struct registry_version *v = malloc(sizeof *v);
    CHECK(v != NULL);
    int rc, looked;
    do {
        before = now;
        rc = registry_db_version(to->r->db, before.alias.model, before.alias.version, v, err);
        looked = rc < 0 ? 0 : registry_render_verify(to->r->root, &before.alias, v, &why);
        if (looked < 0)
            registry_complete(to->r, &late);       /* and waits for who is just rendering */
        if (looked < 0)
            rc = registry_db_standing(to->r->db, before.alias.model, before.alias.name, &now, err);
    } while (rc == 0 && looked < 0 && (now.moves != before.moves || now.rendered != before.rendered));
    if (rc == 0)
        note(to, looked, &why);
    free(v);
    return rc;
}

int registry_verify(struct registry *r, void (*wrong)(void *arg, const char *text), void *arg, unsigned *files, struct err *err)
{
    struct verify to = {r, wrong, arg, files, 0};
    struct err why = ERR_INIT;
    char head[SHA256_HEX];
    *files = 0;
    TRY(registry_versions(r, NULL, verify_version, &to, err));
    TRY(registry_db_standings(r->db, NULL, verify_alias, &to, err));
    if (registry_audit(r, NULL, NULL, NULL, head, &why) < 0) {
        to.bad++;
        wrong(arg, why.text);
    }
    return to.bad ? err_set(err, ERR_CORRUPT, "%u of the registry %s does not verify, named above", to.bad, r->root) : 0;
}
