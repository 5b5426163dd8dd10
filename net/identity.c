/* The run's certificate authority and the certificates it issues: ECDSA P-256, one URI as the only name.
 * Files are 0600, written whole and renamed. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "net/tls.h"

#define DAY 86400L
#define CA_DAYS 7300
#define CERT_DAYS 730                    /* issued anew at a start that finds less than half of them left */
#define SKEW_DAYS 1                      /* so far behind ours another host's clock may be */
#define NAME_MAX_BYTES 128

const char *role_word(unsigned role)
{
    static const char *const words[] = {"none", "coordinator", "agent", "worker", "ps", "export", "cli", "join", "viewer"};
    return role < ARRAY_LEN(words) ? words[role] : "unknown";
}

static int ssl_err(struct err *err, const char *what, const char *path)
{
    char text[160];
    ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
    ERR_clear_error();
    return err_set(err, ERR_FAILED, "%s %s: %s", what, path, text);
}

/* ---- files ---- */
static int path_of(char out[PATH_MAX], const char *dir, const char *name, const char *suffix, struct err *err)
{
    return snprintf(out, PATH_MAX, "%s/%s%s", dir, name, suffix) < PATH_MAX ? 0 : err_set(err, ERR_USAGE, "the path %s is too long", dir);
}

/* Processes of a site may issue the same certificate at once; -1 when there is no lock to take. */
static int lock_dir(const char *dir, int how)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path)
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        flock(fd, how);
    return fd;
}

static void unlock_dir(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* The folder is ours alone even when somebody made it first. */
static int make_dir(const char *dir, struct err *err)
{
    char up[PATH_MAX];
    snprintf(up, sizeof up, "%s", dir);
    char *slash = strrchr(up, '/');
    if (slash && slash != up) {
        *slash = '\0';
        TRY(fs_mkdirs(&fs_real, up, err));
    }
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_errno(err, errno, "cannot create folder %s", dir);
    return chmod(dir, 0700) == 0 ? 0 : err_errno(err, errno, "cannot protect folder %s", dir);
}

static int write_pem(const char *path, X509 *cert, EVP_PKEY *key, struct err *err)
{
    BIO *b = BIO_new(BIO_s_mem());
    char *bytes;
    int good = b && (cert ? PEM_write_bio_X509(b, cert) : PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL));
    long n = good ? BIO_get_mem_data(b, &bytes) : 0;
    int rc = n > 0 ? fs_publish_secret(&fs_real, path, bytes, (size_t)n, err) : ssl_err(err, "cannot encode", path);
    BIO_free(b);
    return rc;
}

static BIO *open_pem(const char *path)
{
    return BIO_new_file(path, "r");
}

static X509 *read_cert(const char *path)
{
    BIO *b = open_pem(path);
    X509 *cert = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    ERR_clear_error();
    return cert;
}

static EVP_PKEY *read_key(const char *path)
{
    BIO *b = open_pem(path);
    EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    ERR_clear_error();
    return key;
}

struct pair { X509 *cert; EVP_PKEY *key; };

static void pair_free(struct pair *p)
{
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
}

/* Both files, belonging together; false: missing or not. */
static bool pair_read(const char *cert_path, const char *key_path, struct pair *out)
{
    struct pair p = {read_cert(cert_path), read_key(key_path)};
    if (p.cert && p.key && X509_check_private_key(p.cert, p.key) == 1) {
        *out = p;
        return true;
    }
    ERR_clear_error();
    pair_free(&p);
    return false;
}

/* The key first: a certificate is never there without its key. */
static int pair_write(const struct pair *p, const char *cert_path, const char *key_path, struct err *err)
{
    TRY(write_pem(key_path, NULL, p->key, err));
    return write_pem(cert_path, p->cert, NULL, err);
}

/* ---- certificates ---- */
struct request { const char *common_name, *names; const char *const (*extensions)[2]; long days; const struct pair *ca; };   /* ca NULL: signs itself */

static const char *const ca_extensions[][2] = {
    {"basicConstraints", "critical,CA:TRUE,pathlen:0"}, {"keyUsage", "critical,keyCertSign"}, {"subjectKeyIdentifier", "hash"}, {NULL, NULL}};
static const char *const leaf_extensions[][2] = {
    {"basicConstraints", "critical,CA:FALSE"}, {"keyUsage", "critical,digitalSignature"}, {"extendedKeyUsage", "serverAuth,clientAuth"},
    {"subjectKeyIdentifier", "hash"}, {"authorityKeyIdentifier", "keyid"}, {NULL, NULL}};
static const char *const web_extensions[][2] = {
    {"basicConstraints", "critical,CA:FALSE"}, {"keyUsage", "critical,digitalSignature"}, {"extendedKeyUsage", "serverAuth"},
    {"subjectKeyIdentifier", "hash"}, {"authorityKeyIdentifier", "keyid"}, {NULL, NULL}};

static bool extend(X509 *cert, X509 *issuer, const char *name, const char *value)
{
    X509V3_CTX c;
    X509V3_set_ctx_nodb(&c);
    X509V3_set_ctx(&c, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf(NULL, &c, name, value);
    bool good = e && X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
    return good;
}

static bool name_cert(X509 *cert, const struct request *r)
{
    X509_NAME *subject = X509_get_subject_name(cert);
    X509 *issuer = r->ca ? r->ca->cert : cert;
    if (!X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)r->common_name, -1, -1, 0))
        return false;
    if (!X509_set_issuer_name(cert, X509_get_subject_name(issuer)))
        return false;
    for (unsigned i = 0; r->extensions[i][0]; i++)
        if (!extend(cert, issuer, r->extensions[i][0], r->extensions[i][1]))
            return false;
    return !r->names || extend(cert, issuer, "subjectAltName", r->names);
}

static bool fill_cert(X509 *cert, EVP_PKEY *key, const struct request *r)
{
    uint64_t serial;
    random_bytes(&serial, sizeof serial);
    return X509_set_version(cert, 2) && ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1 | 1)
           && X509_gmtime_adj(X509_getm_notBefore(cert), -SKEW_DAYS * DAY) && X509_gmtime_adj(X509_getm_notAfter(cert), r->days * DAY)
           && X509_set_pubkey(cert, key) && name_cert(cert, r) && X509_sign(cert, r->ca ? r->ca->key : key, EVP_sha256()) > 0;
}

static int make_pair(const struct request *r, struct pair *out, struct err *err)
{
    struct pair p = {X509_new(), EVP_EC_gen("P-256")};
    if (!p.cert || !p.key || !fill_cert(p.cert, p.key, r)) {
        pair_free(&p);
        return ssl_err(err, "cannot make the certificate of", r->common_name);
    }
    *out = p;
    return 0;
}

/* ---- authority ---- */
static int make_ca_locked(const char *dir, const char *job, struct err *err)
{
    char cert[PATH_MAX], key[PATH_MAX], common_name[64];
    struct pair p;
    TRY(path_of(cert, dir, "ca", ".pem", err));
    TRY(path_of(key, dir, "ca", ".key", err));
    if (pair_read(cert, key, &p)) {
        pair_free(&p);
        return 0;
    }
    if (access(cert, F_OK) == 0)
        return err_set(err, ERR_CORRUPT, "%s is damaged or does not match its key; remove the folder %s, and the next start makes new certificates", cert, dir);
    snprintf(common_name, sizeof common_name, "viaduct run %.40s", job);
    struct request r = {.common_name = common_name, .extensions = ca_extensions, .days = CA_DAYS};
    TRY(make_pair(&r, &p, err));
    int rc = pair_write(&p, cert, key, err);
    pair_free(&p);
    return rc;
}

int identity_make_ca(const char *dir, const char *job, struct err *err)
{
    TRY(make_dir(dir, err));
    int lock = lock_dir(dir, LOCK_EX);
    int rc = make_ca_locked(dir, job, err);
    unlock_dir(lock);
    return rc;
}

/* ---- issue ---- */
struct cert_files { char cert[PATH_MAX], key[PATH_MAX], ca[PATH_MAX], ca_key[PATH_MAX]; };

static bool plain_word(const char *s, size_t max)
{
    size_t n = strlen(s);
    return n > 0 && n <= max && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n && s[0] != '.';
}

static int files_named(const char *dir, const char *name, struct cert_files *f, struct err *err)
{
    TRY(path_of(f->cert, dir, name, ".pem", err));
    TRY(path_of(f->key, dir, name, ".key", err));
    TRY(path_of(f->ca, dir, "ca", ".pem", err));
    return path_of(f->ca_key, dir, "ca", ".key", err);
}

static int files_of(const char *dir, const char *site, enum role role, struct cert_files *f, struct err *err)
{
    char name[NAME_MAX_BYTES];
    if (!plain_word(site, 64))
        return err_set(err, ERR_USAGE, "'%s' cannot be the name of a site; use letters, digits, - and _", site);
    snprintf(name, sizeof name, "%s-%s", role_word(role), site);
    return files_named(dir, name, f, err);
}

/* There, belonging together, signed by this authority and with half its days ahead. */
static bool still_good(const struct cert_files *f, const struct pair *ca)
{
    struct pair p;
    if (!pair_read(f->cert, f->key, &p))
        return false;
    time_t enough = time(NULL) + CERT_DAYS / 2 * DAY;
    bool good = X509_verify(p.cert, ca->key) == 1 && X509_cmp_time(X509_get0_notAfter(p.cert), &enough) > 0;
    ERR_clear_error();
    pair_free(&p);
    return good;
}

static int issue_locked(const struct cert_files *f, const struct request *r, const struct pair *ca, struct err *err)
{
    struct pair p;
    if (still_good(f, ca))
        return 0;
    TRY(make_pair(r, &p, err));
    int rc = pair_write(&p, f->cert, f->key, err);
    pair_free(&p);
    return rc;
}

static int issue(const char *dir, const struct cert_files *f, struct request *r, struct err *err)
{
    struct pair ca;
    int lock = lock_dir(dir, LOCK_EX);
    if (!pair_read(f->ca, f->ca_key, &ca)) {
        unlock_dir(lock);
        return err_set(err, ERR_NOT_FOUND, "%s and its key are missing or do not match; was this run created on this machine?", f->ca);
    }
    r->ca = &ca;
    r->days = CERT_DAYS;
    int rc = issue_locked(f, r, &ca, err);
    pair_free(&ca);
    unlock_dir(lock);
    return rc;
}

int identity_issue(const char *dir, const char *job, const char *site, enum role role, struct err *err)
{
    struct cert_files f;
    char uri[256], common_name[64];
    TRY(files_of(dir, site, role, &f, err));
    if (!plain_word(job, 64))
        return err_set(err, ERR_USAGE, "'%s' cannot be the id of a job", job);
    snprintf(uri, sizeof uri, "URI:viaduct://%s/site/%s/role/%s", job, site, role_word(role));
    snprintf(common_name, sizeof common_name, "%s %.40s", role_word(role), site);
    struct request r = {.common_name = common_name, .names = uri, .extensions = leaf_extensions};
    return issue(dir, &f, &r, err);
}

int identity_issue_web(const char *dir, const char *host, struct err *err)
{
    struct cert_files f;
    char names[256];
    unsigned char ip[sizeof(struct in6_addr)];
    bool numeric = inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1;
    if (!numeric && !plain_word(host, 128))
        return err_set(err, ERR_USAGE, "'%s' is no host that a certificate could name", host);
    TRY(files_named(dir, "web", &f, err));
    unlink(f.cert);                      /* the host may be another than it was */
    snprintf(names, sizeof names, "DNS:viaduct-metrics,%s:%s", numeric ? "IP" : "DNS", host);
    struct request r = {.common_name = "viaduct-metrics", .names = names, .extensions = web_extensions};
    return issue(dir, &f, &r, err);
}

/* ---- load ---- */
static bool set_up(SSL_CTX *ctx, const struct cert_files *f)
{
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);   /* no resumption: every connection shows its certificate */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) && SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION)
           && SSL_CTX_set_num_tickets(ctx, 0)
           && SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")
           && SSL_CTX_use_certificate_file(ctx, f->cert, SSL_FILETYPE_PEM) == 1
           && SSL_CTX_use_PrivateKey_file(ctx, f->key, SSL_FILETYPE_PEM) == 1 && SSL_CTX_check_private_key(ctx) == 1
           && SSL_CTX_load_verify_locations(ctx, f->ca, NULL) == 1;
}

static int load(const char *dir, const struct cert_files *f, struct identity **out, struct err *err)
{
    if (access(f->cert, R_OK) != 0 || access(f->key, R_OK) != 0 || access(f->ca, R_OK) != 0)
        return err_set(err, ERR_NOT_FOUND, "cannot read the certificate %s, its key or %s", f->cert, f->ca);
    struct identity *i = calloc(1, sizeof *i);
    if (!i)
        return err_set(err, ERR_NO_MEMORY, "no memory for a certificate");
    int lock = lock_dir(dir, LOCK_SH);
    i->ctx = SSL_CTX_new(TLS_method());
    bool good = i->ctx && set_up(i->ctx, f);
    unlock_dir(lock);
    if (!good) {
        identity_free(i);
        return ssl_err(err, "cannot use the certificate", f->cert);
    }
    *out = i;
    return 0;
}

int identity_load(const char *dir, const char *site, enum role role, struct identity **out, struct err *err)
{
    struct cert_files f;
    TRY(files_of(dir, site, role, &f, err));
    return load(dir, &f, out, err);
}

int identity_load_web(const char *dir, struct identity **out, struct err *err)
{
    struct cert_files f;
    TRY(files_named(dir, "web", &f, err));
    return load(dir, &f, out, err);
}

void identity_free(struct identity *i)
{
    if (!i)
        return;
    SSL_CTX_free(i->ctx);
    free(i);
}
