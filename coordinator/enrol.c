/* How a machine becomes a site: a token, good once, gets it the files of a run directory. The token holds a certificate that is good for asking and
 * for nothing else (role join), so the asking itself runs over mutual TLS; what the answer may contain is a fixed table of names. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "net/net.h"

#define TOKEN_WORD "viaduct-token-1"
#define FILE_MAX (1u << 20)
#define SECRET_BYTES 32

/* %s: the site. Last on the disk of who gets them is the one that tells that all are there. */
#define LAST 1
static const char *const files[] = {
    "spec.yaml", "state/job", "state/sites", "state/tls/ca.pem", "state/tls/agent-%s.pem", "state/tls/agent-%s.key", "state/tls/worker-%s.pem", "state/tls/worker-%s.key",
    "state/tls/ps-%s.pem", "state/tls/ps-%s.key", "state/tls/export-%s.pem", "state/tls/export-%s.key"};

static int path_in(char out[700], const char *dir, const char *name, const char *site, struct err *err)
{
    char file[160];
    snprintf(file, sizeof file, name, site);   /* names are the table's; a site is a plain word */
    return snprintf(out, 700, "%s/%s", dir, file) < 700 ? 0 : err_set(err, ERR_USAGE, "the path %s is too long", dir);
}

static int append_file(FILE *to, const char *path, struct err *err)
{
    void *bytes;
    size_t size;
    TRY(fs_read_file(&fs_real, path, FILE_MAX, &bytes, &size, err));
    fwrite(bytes, 1, size, to);
    free(bytes);
    return 0;
}

const char *enrol_address(const struct job_spec *spec, const char *job, char *out)
{
    bool door = spec->coordinator_door != NULL;
    snprintf(out, ADDRESS_LIMIT, "%s%s%s", spec->address, door ? "/coordinator." : "", door ? job : "");
    return out;
}

/* ---- tokens ---- */
static int token_text(const char *run_dir, const char *job, const char *site, unsigned index, const char *secret, char **out, size_t *size, struct err *err)
{
    static const char *const parts[] = {"state/tls/ca.pem", "state/tls/join-%s.pem", "state/tls/join-%s.key"};
    char path[700];
    FILE *f = open_memstream(out, size);
    CHECK(f != NULL);
    fprintf(f, TOKEN_WORD " %s %s %u %s\n", job, site, index, secret);
    int rc = 0;
    for (unsigned i = 0; i < ARRAY_LEN(parts) && rc == 0; i++)
        if ((rc = path_in(path, run_dir, parts[i], site, err)) == 0)
            rc = append_file(f, path, err);
    fclose(f);
    return rc;
}

static void hash_of(const char *secret, char hash[SHA256_HEX])
{
    uint8_t digest[SHA256_BYTES];
    sha256_of(secret, strlen(secret), digest);
    hex_of(digest, sizeof digest, hash);
}

/* path: of what stands for it until it is used. */
static int check_secret(const char *run_dir, const char *site, const char *secret, char path[700], struct err *err)
{
    char hash[SHA256_HEX];
    uint8_t differs = 0;
    void *bytes;
    size_t size;
    TRY(path_in(path, run_dir, "state/tokens/%s.sha256", site, err));
    if (fs_read_file(&fs_real, path, SHA256_HEX, &bytes, &size, err) < 0)
        return err_set(err, ERR_DENIED, "the token of site '%s' has been used; make another with: viaduct token RUN --site %s", site, site);
    hash_of(secret, hash);
    for (size_t i = 0; i < SHA256_HEX - 1; i++)
        differs |= (uint8_t)(i < size ? ((const char *)bytes)[i] ^ hash[i] : 1);
    free(bytes);
    return differs ? err_set(err, ERR_DENIED, "this is not the newest token of site '%s'; make another with: viaduct token RUN --site %s", site, site) : 0;
}

/* Of the token that lies there, if nobody has used it. */
static bool unused(const char *run_dir, const char *site, char secret[2 * SECRET_BYTES + 1])
{
    char path[700];
    void *bytes = NULL;
    size_t size;
    struct err none = ERR_INIT;
    bool there = path_in(path, run_dir, "state/tokens/%s.token", site, &none) == 0 && fs_read_file(&fs_real, path, FILE_MAX, &bytes, &size, &none) == 0 &&
                 sscanf(bytes, TOKEN_WORD " %*s %*s %*u %64s", secret) == 1 && check_secret(run_dir, site, secret, path, &none) == 0;
    free(bytes);
    return there;
}

static int new_secret(const char *run_dir, const char *site, char secret[2 * SECRET_BYTES + 1], struct err *err)
{
    uint8_t random[SECRET_BYTES];
    char path[700];
    random_bytes(random, sizeof random);
    hex_of(random, sizeof random, secret);
    TRY(path_in(path, run_dir, "state/tls/join-%s.pem", site, err));
    unlink(path);                         /* it gets a certificate of its own, too */
    return 0;
}

int enrol_make_token(const char *run_dir, const char *job, const struct job_spec *spec, unsigned site, bool another, char path[700], struct err *err)
{
    const char *name = spec->sites[site].name;
    char tls[700], file[700], secret[2 * SECRET_BYTES + 1], hash[SHA256_HEX], *text = NULL;
    size_t size = 0;
    if (another || !unused(run_dir, name, secret))
        TRY(new_secret(run_dir, name, secret, err));
    TRY(path_in(tls, run_dir, "state/tls", "", err));
    TRY(identity_issue(tls, job, name, ROLE_JOIN, err));
    TRY(path_in(path, run_dir, "state/tokens", "", err));
    TRY(fs_mkdirs(&fs_real, path, err));
    if (chmod(path, 0700) < 0)
        return err_errno(err, errno, "cannot protect %s", path);
    TRY(path_in(path, run_dir, "state/tokens/%s.token", name, err));
    int rc = token_text(run_dir, job, name, site, secret, &text, &size, err);
    if (rc == 0)
        rc = fs_publish_secret(&fs_real, path, text, size, err);
    free(text);
    TRY(rc);
    hash_of(secret, hash);
    TRY(path_in(file, run_dir, "state/tokens/%s.sha256", name, err));
    return fs_publish_secret(&fs_real, file, hash, strlen(hash), err);
}

int enrol_spend(const char *run_dir, const char *site, const char *secret, struct err *err)
{
    char path[700];
    TRY(check_secret(run_dir, site, secret, path, err));
    return unlink(path) == 0 ? 0 : err_errno(err, errno, "cannot spend the token %s", path);
}

/* A token file: the line, then three PEM blocks, which go where net/ looks for them. */
static int split_pem(const char *text, const char *tls, const char *site, struct err *err)
{
    static const char *const names[] = {"ca.pem", "join-%s.pem", "join-%s.key"};
    const char *at = text;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char path[700];
        const char *begin = strstr(at, "-----BEGIN "), *end = begin ? strstr(begin, "-----END ") : NULL, *line = end ? strchr(end, '\n') : NULL;
        if (!line)
            return err_set(err, ERR_USAGE, "the token is cut off: it has %u of its 3 parts", i);
        TRY(path_in(path, tls, names[i], site, err));
        TRY(fs_publish_secret(&fs_real, path, begin, (size_t)(line + 1 - begin), err));
        at = line + 1;
    }
    return 0;
}

static bool plain(const char *word)
{
    size_t n = strlen(word);
    return n > 0 && word[0] != '.' && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n;
}

int enrol_read_token(const char *path, const char *dir, struct enrol_token *out, struct err *err)
{
    char tls[700];
    void *bytes;
    size_t size;
    if (fs_read_file(&fs_real, path, FILE_MAX, &bytes, &size, err) < 0)
        return err_wrap(err, "no token");
    bool good = sscanf(bytes, TOKEN_WORD " %39s %63s %u %79s", out->job, out->site, &out->index, out->secret) == 4 && plain(out->job) && plain(out->site);
    int rc = good ? 0 : err_set(err, ERR_USAGE, "%s is no token; it is the file that `viaduct run` or `viaduct token` names", path);
    if (rc == 0)
        rc = path_in(tls, dir, "state/tls", "", err);
    if (rc == 0)
        rc = fs_mkdirs(&fs_real, tls, err);
    if (rc == 0 && chmod(tls, 0700) < 0)
        rc = err_errno(err, errno, "cannot protect %s", tls);
    if (rc == 0)
        rc = split_pem(bytes, tls, out->site, err);
    explicit_bzero(bytes, size);
    free(bytes);
    return rc;
}

/* ---- what it buys ---- */
int enrol_pack(const char *run_dir, const char *site, void **out, size_t *size, struct err *err)
{
    char path[700];
    uint8_t *image = malloc(ARRAY_LEN(files) * 64 + FILE_MAX);
    CHECK(image != NULL);
    struct writer w = writer_over(image, ARRAY_LEN(files) * 64 + FILE_MAX);
    int rc = 0;
    for (unsigned i = 0; i < ARRAY_LEN(files) && rc == 0; i++) {
        void *bytes = NULL;
        size_t n = 0;
        if ((rc = path_in(path, run_dir, files[i], site, err)) == 0)
            rc = fs_read_file(&fs_real, path, FILE_MAX, &bytes, &n, err);
        put_u32(&w, (uint32_t)n);
        put_bytes(&w, bytes, n);
        free(bytes);
    }
    if (rc == 0 && w.bad)
        rc = err_set(err, ERR_FAILED, "the files of this run are larger than %u bytes", FILE_MAX);
    if (rc < 0) {
        free(image);
        return rc;
    }
    *out = image;
    *size = w.pos;
    return 0;
}

static int write_one(const char *dir, const char *site, unsigned i, struct bytes what, struct err *err)
{
    char path[700];
    TRY(path_in(path, dir, files[i], site, err));
    return fs_publish_secret(&fs_real, path, what.data, what.size, err);
}

int enrol_unpack(const char *dir, const char *site, const void *image, size_t size, struct err *err)
{
    struct bytes file[ARRAY_LEN(files)];
    struct reader r = reader_over(image, size);
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        file[i].size = get_count(&r, FILE_MAX);
        file[i].data = get_bytes(&r, file[i].size);
        if (!file[i].data || r.bad)
            return err_set(err, ERR_CORRUPT, "the coordinator's answer is cut off");
    }
    if (!reader_done(&r))
        return err_set(err, ERR_CORRUPT, "the coordinator's answer is longer than this program expects; install one release everywhere");
    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        if (i != LAST)
            TRY(write_one(dir, site, i, file[i], err));
    return write_one(dir, site, LAST, file[LAST], err);
}
