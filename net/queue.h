/* The two ends of a link in memory: received bytes until a frame is whole, and frames until they are sent. */
#ifndef VIADUCT_NET_QUEUE_H
#define VIADUCT_NET_QUEUE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

/* Received bytes [start, end). Frames begin at multiples of 16. */
struct inbox { uint8_t *data; size_t capacity, start, end; };
/* Where the next bytes go. need: size of the frame at `start`, 0 while its header is not whole. Grows to the largest frame and stays. */
int inbox_room(struct inbox *b, size_t need, uint8_t **at, size_t *room, struct err *err);
void inbox_free(struct inbox *b);

struct outgoing { struct outgoing *next; size_t size, capacity; uint8_t data[]; };
struct outbox { struct outgoing *first, *last, *spare; size_t sent, bytes, max; unsigned spares; };   /* sent: of the first */
/* Memory for a frame, to be filled and added; ERR_TEMPORARY when `max` bytes would be exceeded. */
int outbox_new(struct outbox *b, size_t size, struct outgoing **out, struct err *err);
void outbox_add(struct outbox *b, struct outgoing *f);
unsigned outbox_peek(const struct outbox *b, struct iovec *v, unsigned max);   /* what to send next */
void outbox_sent(struct outbox *b, size_t n);
void outbox_clear(struct outbox *b);

#endif
