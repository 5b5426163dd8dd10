/* One TLS session between two buffers of ciphertext: OpenSSL reads and writes memory, the wire moves large chunks. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls.h"

#define CHUNK (256u << 10)
#define RECORD 16384u
#define RECORD_ROOM (RECORD + 512u)                  /* one encrypted record */

struct cipher { size_t start, end; unsigned char *data; };

struct tls {
    SSL *ssl;
    BIO_METHOD *method;
    struct wire *wire;
    struct cipher in, out;
    struct err over;             /* of the wire, once it has ended */
};

/* ---- the two buffers as OpenSSL sees them ---- */
static int memory_read(BIO *b, char *p, int n)
{
    struct tls *t = BIO_get_data(b);
    size_t have = t->in.end - t->in.start, take = have < (size_t)n ? have : (size_t)n;
    BIO_clear_retry_flags(b);
    if (take == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(p, t->in.data + t->in.start, take);
    t->in.start += take;
    return (int)take;
}

static int memory_write(BIO *b, const char *p, int n)
{
    struct tls *t = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (n <= 0 || CHUNK - t->out.end < (size_t)n) {
        BIO_set_retry_write(b);
        return -1;
    }
    memcpy(t->out.data + t->out.end, p, (size_t)n);
    t->out.end += (size_t)n;
    return n;
}

static long memory_ctrl(BIO *b, int command, long number, void *pointer)
{
    (void)b;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO *memory_bio(struct tls *t)
{
    t->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "viaduct");
    if (!t->method)
        return NULL;
    BIO_meth_set_read(t->method, memory_read);
    BIO_meth_set_write(t->method, memory_write);
    BIO_meth_set_ctrl(t->method, memory_ctrl);
    BIO *b = BIO_new(t->method);
    if (b) {
        BIO_set_data(b, t);
        BIO_set_init(b, 1);
    }
    return b;
}

/* ---- life ---- */
int tls_new(const struct identity *identity, bool accepted, const char *server_name, struct wire *wire, struct tls **out, struct err *err)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(err, ERR_NO_MEMORY, "no memory for a TLS session");
    t->wire = wire;
    t->in.data = malloc(CHUNK);
    t->out.data = malloc(CHUNK);
    t->ssl = SSL_new(identity->ctx);
    BIO *b = memory_bio(t);
    bool named = t->ssl && (!*server_name || SSL_set_tlsext_host_name(t->ssl, server_name) == 1);
    if (!t->in.data || !t->out.data || !named || !b) {
        BIO_free(b);
        tls_free(t);
        return err_set(err, ERR_NO_MEMORY, "no memory for a TLS session");
    }
    SSL_set_bio(t->ssl, b, b);
    if (accepted)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    *out = t;
    return 0;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    BIO_meth_free(t->method);
    free(t->in.data);
    free(t->out.data);
    free(t);
}

/* ---- what went wrong ---- */
static bool peer_refused_us(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE: case SSL_R_SSLV3_ALERT_NO_CERTIFICATE: case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED: case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA: case SSL_R_TLSV1_ALERT_ACCESS_DENIED: case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return true;
    default:
        return false;
    }
}

static int ssl_failed(struct tls *t, int ret, struct err *err)
{
    int kind = SSL_get_error(t->ssl, ret);
    unsigned long code = ERR_peek_last_error();
    int reason = ERR_GET_REASON(code);
    long verdict = SSL_get_verify_result(t->ssl);
    char text[160];
    ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    if (kind == SSL_ERROR_WANT_READ && t->over.code) {
        *err = t->over;
        return err->code;
    }
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return 0;
    if (kind == SSL_ERROR_ZERO_RETURN)
        return err_set(err, ERR_TEMPORARY, "the other end closed the connection");
    if (verdict == X509_V_ERR_CERT_NOT_YET_VALID || verdict == X509_V_ERR_CERT_HAS_EXPIRED)
        return err_set(err, ERR_DENIED, "the certificate of the other end is refused (%s): are the clocks of both hosts right?", X509_verify_cert_error_string(verdict));
    if (peer_refused_us(reason))
        return err_set(err, ERR_DENIED, "the other end refused our certificate (%s); are both of the same run?", ERR_reason_error_string(code));
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return err_set(err, ERR_DENIED, "the other end showed no certificate");
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED || (!SSL_is_init_finished(t->ssl) && verdict != X509_V_OK))
        return err_set(err, ERR_DENIED, "the certificate of the other end is refused (%s); are both of the same run?",
                       X509_verify_cert_error_string(verdict));
    return err_set(err, ERR_CORRUPT, "TLS failed: %s", code ? text : "unexpected end");
}

/* ---- out ---- */
int tls_flush(struct tls *t, struct err *err)
{
    while (t->out.start < t->out.end) {
        struct iovec v = {t->out.data + t->out.start, t->out.end - t->out.start};
        ssize_t n = wire_send(t->wire, &v, 1, err);
        if (n <= 0)
            return (int)n;
        t->out.start += (size_t)n;
    }
    t->out.start = t->out.end = 0;
    return 1;
}

/* Room for one record, sending when there is none. 1, 0: not now, or an error. */
static int make_room(struct tls *t, struct err *err)
{
    if (CHUNK - t->out.end >= RECORD_ROOM)
        return 1;
    int rc = tls_flush(t, err);
    if (rc != 0)
        return rc;
    memmove(t->out.data, t->out.data + t->out.start, t->out.end - t->out.start);
    t->out.end -= t->out.start;
    t->out.start = 0;
    return CHUNK - t->out.end >= RECORD_ROOM;
}

ssize_t tls_write(struct tls *t, const void *p, size_t n, struct err *err)
{
    const unsigned char *from = p;
    size_t done = 0;
    while (done < n) {
        int rc = make_room(t, err);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        size_t left = n - done;
        ERR_clear_error();
        int put = SSL_write(t->ssl, from + done, (int)(left < RECORD ? left : RECORD));
        if (put <= 0) {
            rc = ssl_failed(t, put, err);
            return rc < 0 ? rc : (ssize_t)done;
        }
        done += (size_t)put;
    }
    return (ssize_t)done;
}

void tls_goodbye(struct tls *t)
{
    if (SSL_is_init_finished(t->ssl))
        SSL_shutdown(t->ssl);
    ERR_clear_error();
}

/* ---- in ---- */
void tls_fill(struct tls *t)
{
    if (t->over.code || t->in.start < t->in.end)
        return;
    ssize_t n = wire_recv(t->wire, t->in.data, CHUNK, &t->over);
    t->in.start = 0;
    t->in.end = n > 0 ? (size_t)n : 0;
}

ssize_t tls_read(struct tls *t, void *p, size_t n, struct err *err)
{
    ERR_clear_error();
    int got = SSL_read(t->ssl, p, n < (1u << 30) ? (int)n : 1 << 30);
    return got > 0 ? got : ssl_failed(t, got, err);
}

int tls_handshake(struct tls *t, struct err *err)
{
    struct err send_err = ERR_INIT;
    tls_fill(t);
    ERR_clear_error();
    int ret = SSL_do_handshake(t->ssl);
    int rc = ret == 1 ? 1 : ssl_failed(t, ret, err);
    /* An alert that explains a refusal leaves with the last flush; its failure adds nothing to what the peer has said. */
    int sent = tls_flush(t, &send_err);
    if (sent < 0 && rc == 1)
        t->over = send_err;
    return rc;
}

bool tls_peer_uri(struct tls *t, char *out, size_t size)
{
    X509 *cert = SSL_get1_peer_certificate(t->ssl);
    GENERAL_NAMES *names = cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
    bool found = false;
    if (names && sk_GENERAL_NAME_num(names) == 1 && sk_GENERAL_NAME_value(names, 0)->type == GEN_URI) {
        const ASN1_STRING *uri = sk_GENERAL_NAME_value(names, 0)->d.uniformResourceIdentifier;
        size_t length = (size_t)ASN1_STRING_length(uri);
        if (length < size && !memchr(ASN1_STRING_get0_data(uri), '\0', length)) {
            memcpy(out, ASN1_STRING_get0_data(uri), length);
            out[length] = '\0';
            found = true;
        }
    }
    GENERAL_NAMES_free(names);
    X509_free(cert);
    return found;
}
