/* net: moves bytes and messages. One event loop a thread owns everything it opens; frames over TLS 1.3 with mutual certificates
 * ("tls:HOST:PORT") or Unix sockets with peer credentials ("unix:/path"). libuv and OpenSSL stay behind this header. */
#ifndef VIADUCT_NET_NET_H
#define VIADUCT_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "base/log.h"
#include "net/msg.h"

/* ---- loop: all callbacks run in the thread that calls loop_run ---- */
struct loop;
int loop_new(struct loop **out, struct err *err);
void loop_free(struct loop *l);                      /* closes what is still open, without calls; posts that did not run are dropped */
void loop_run(struct loop *l);                       /* until loop_stop, or nothing is left to wait for */
void loop_stop(struct loop *l);
uint64_t loop_now_ms(struct loop *l);                /* monotonic, moves during a callback too */
/* Runs fn(arg) in the loop's thread soon; from any thread. Bounded queue (4096): -> ERR_TEMPORARY when full. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);
struct timer;
struct timer *timer_start(struct loop *l, uint64_t after_ms, uint64_t every_ms, void (*fn)(void *arg), void *arg);   /* every 0: once, then freed */
void timer_stop(struct timer *t);                    /* also inside its own call; NULL is none. Not after a one-shot timer has fired: it is gone */
/* SIGTERM, SIGINT, ... without races. Alone it does not keep loop_run going; neither does loop_post. */
int loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg, struct err *err);
/* Death of any process (pidfd), child or not. A child is reaped here: it ended with (code, signo 0) or was killed (code -1, signo); of others, and of
 * a pid that is gone already, both are -1. Fires once, never inside process_watch; the watch is freed before the call. */
struct process_watch;
int process_watch(struct loop *l, pid_t pid, void (*fn)(void *arg, pid_t pid, int code, int signo), void *arg,
                  struct process_watch **out, struct err *err);
void process_unwatch(struct process_watch *w);
/* To that very process: not to another that got its number after it ended, before its death was told here. */
void process_signal(const struct process_watch *w, int signo);
/* Readable pipe or socket: lines of text (their rest after 4096 bytes is dropped), NULL at the end. The loop owns and closes the descriptor. */
int loop_read_lines(struct loop *l, int fd, void (*fn)(void *arg, const char *line), void *arg, struct err *err);

/* ---- identity: the run's own certificate authority, ECDSA P-256, short-lived; files are 0600 in a 0700 folder ---- */
int identity_make_ca(const char *dir, const char *job, struct err *err);          /* DIR/ca.pem, DIR/ca.key; kept when already there */
/* Issues DIR/<role>-<site>.pem/.key signed by the CA in dir: URI SAN viaduct://<job>/site/<site>/role/<role>. Kept when there and good for a day. */
int identity_issue(const char *dir, const char *job, const char *site, enum role role, struct err *err);
/* DIR/web.pem/.key, anew each time: of a server that browsers and scrapers know by DNS name viaduct-metrics or by `host`; no link takes it for a process. */
int identity_issue_web(const char *dir, const char *host, struct err *err);
struct identity;                                     /* loaded certificate, key and CA: one TLS context each way */
int identity_load(const char *dir, const char *site, enum role role, struct identity **out, struct err *err);
int identity_load_web(const char *dir, struct identity **out, struct err *err);
void identity_free(struct identity *i);

/* ---- links ---- */
#define FRAME_MAGIC 0x54434456u                      /* "VDCT" */
#define FRAME_VERSION 3
#define FRAME_HEAD_BYTES 64
#define LINK_QUEUE_MAX ((size_t)256 << 20)           /* bytes that wait to be sent over one link, unless its owner says otherwise */
#define FRAME_PAYLOAD_MAX (64u << 20)                /* layout of a frame: net/frame.h */

struct link;
struct link_ops {
    void (*opened)(void *arg, struct link *link, const struct msg_hello *peer);     /* HELLO exchanged, certificate, job and version accepted */
    void (*message)(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t payload_size);
                                                      /* decoded; msg and payload (16-byte aligned) are valid during the call only */
    /* Fires once, also when it never opened (an accepted link: with the listener's arg); the link is freed after. why: code 0 when link_close ended
     * it, ERR_TEMPORARY when the other end or the connection did. */
    void (*closed)(void *arg, struct link *link, const struct err *why);
};
struct listener;
/* Addresses: "tls:HOST:PORT" (port 0: chosen), "unix:/path" (replaced when stale); to dial also "tls:HOST:PORT/NAME", a process behind the front door at
 * HOST:PORT: NAME goes as the TLS server name, the certificate is checked as ever. hello: who we are. identity may be NULL for unix. */
int net_listen(struct loop *l, const char *address, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops,
               void *arg, struct listener **out, struct err *err);
const char *listener_address(const struct listener *s);      /* with the real port */
void listener_close(struct listener *s);             /* connections that have not opened yet end with it, without a call; so does the oldest of more than 256 */
/* Refused certificates close with ERR_DENIED, unreachable peers with ERR_TEMPORARY, protocol violations with ERR_CORRUPT; messages name both ends. */
int net_dial(struct loop *l, const char *address, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops,
             void *arg, struct link **out, struct err *err);
struct bytes { const void *data; size_t size; };
/* Queues a message (copied, encoded; not MSG_HELLO) with its payload pieces (copied). The queue is bounded (256 MiB): ERR_TEMPORARY when full.
 * Never blocks; FIFO; may be called before opened(): it leaves once the other end is accepted. A link that is closing swallows it. */
int link_send(struct link *link, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces, struct err *err);
size_t link_queued(const struct link *link);          /* bytes that the connection has not taken yet */
size_t link_under_way(const struct link *link);       /* those, and what the other end's machine has not confirmed */
/* A call from the loop each time that socket writes have brought link_queued below `low`, for a sender with more than a queue should hold. link_send itself
 * never calls it. */
void link_on_drain(struct link *link, size_t low, void (*fn)(void *arg, struct link *link));
/* A message with a longer payload ends the link; before one is set, FRAME_PAYLOAD_MAX. */
void link_limit_payload(struct link *link, uint32_t bytes);
/* A message that would make more than `bytes` wait is refused (ERR_TEMPORARY); before one is set, LINK_QUEUE_MAX. */
void link_limit_queue(struct link *link, size_t bytes);
/* No message() any more; what is queued is sent (2 s at most), then closed() fires, from the loop. */
void link_close(struct link *link);
void link_set_arg(struct link *link, const struct link_ops *ops, void *arg);   /* hand a link to its owner after opened() */
const struct msg_hello *link_peer(const struct link *link);
/* Bytes written and read on the wire, TLS and headers included. */
void link_traffic(const struct link *link, uint64_t *sent, uint64_t *received);
bool link_is_tls(const struct link *link);
/* The address of this host as that link uses it: where processes beyond it reach us; empty on a local link. */
void link_own_host(const struct link *link, char *out, size_t size);
/* The name of the site in the certificate of the other end, accepted already; "" on a link without TLS. HELLO's site index is the peer's word only. */
const char *link_peer_site(const struct link *link);

/* ---- front door: one TLS port for all processes of a host ----
 * It looks at each caller's ClientHello and passes the connection on, unread, to the process registered under its server name; TLS is between that
 * process and the caller. When the door dies, passed connections live on, and its processes register with the next one by themselves. */
struct front_door_counts {
    uint64_t accepted, passed;
    uint64_t unknown, bad, late, crowded, gone, busy;        /* callers that were not passed on, by why */
    uint64_t strange;                                        /* processes of this host that were refused */
    unsigned registered;                                     /* now */
};
struct front_door;
/* address: "tls:HOST:PORT" (port 0: chosen), passing: "unix:/path", where processes of our own user register. */
int front_door_open(struct loop *l, struct log *log, const char *address, const char *passing, struct front_door **out, struct err *err);
const char *front_door_address(const struct front_door *d);  /* with the real port */
struct front_door_counts front_door_counts(const struct front_door *d);
void front_door_close(struct front_door *d);
/* A listener behind it. name: at most 95 small letters, digits, dashes and dots. listener_address is ADDRESS/NAME at once; callers are passed on as soon
 * as the door is there. A name whose holder lives is not given away: the newcomer tries until the holder ends. */
struct door_place { const char *address, *passing, *name; };
int net_listen_at_door(struct loop *l, const struct door_place *place, const struct identity *identity, const struct msg_hello *hello,
                       const struct link_ops *ops, void *arg, struct listener **out, struct err *err);

/* ---- pages over HTTP, for those who only look ---- */
#define HTTP_BODY_MAX 65536
struct http_page {                                   /* a list of them ends with path NULL */
    const char *path;
    /* Writes the page, returns its bytes; 0, or HTTP_BODY_MAX and more: not now (503). accept: what the caller says it takes. *type: text/plain unless set. */
    size_t (*render)(void *arg, const char *accept, char *out, size_t size, const char **type);
};
struct http_server;
/* host_port: port 0 is chosen. identity NULL: plain, on a loopback address only; else TLS 1.3, and callers must show a viewer's certificate of this job. */
int http_listen(struct loop *l, struct log *log, const char *host_port, const struct identity *identity, const char *job, const struct http_page *pages, void *arg,
                struct http_server **out, struct err *err);
const char *http_address(const struct http_server *s);       /* HOST:PORT with the real port */
bool http_is_loopback(const char *host_port);
void http_close(struct http_server *s);

#endif
