/* Buffers that are allocated rarely: a link in steady state reads into one and sends from a few. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "net/net.h"
#include "net/queue.h"

#define INBOX_FIRST ((size_t)16 << 10)               /* enough for a HELLO: strangers get no more */
#define INBOX_USUAL ((size_t)256 << 10)
#define READ_AHEAD ((size_t)64 << 10)                /* beyond the frame at hand: bounds what may have to be moved */
#define SPARES_MAX 4
#define SPARE_BYTES_MIN ((size_t)32 << 10)           /* malloc is quick below */
#define SPARE_BYTES_MAX ((size_t)8 << 20)

/* ---- in ---- */
static int grow(struct inbox *b, size_t need, struct err *err)
{
    size_t wish = b->capacity == 0 && need <= INBOX_FIRST ? INBOX_FIRST : MAX(need, INBOX_USUAL);
    size_t capacity = (wish + 4095) & ~(size_t)4095;
    uint8_t *data = aligned_alloc(64, capacity);
    if (!data)
        return err_set(err, ERR_NO_MEMORY, "no memory for a message of %zu bytes", need);
    if (b->end > b->start)
        memcpy(data, b->data + b->start, b->end - b->start);
    free(b->data);
    *b = (struct inbox){.data = data, .capacity = capacity, .end = b->end - b->start};
    return 0;
}

static void to_front(struct inbox *b)
{
    memmove(b->data, b->data + b->start, b->end - b->start);
    b->end -= b->start;
    b->start = 0;
}

int inbox_room(struct inbox *b, size_t need, uint8_t **at, size_t *room, struct err *err)
{
    size_t least = need ? need : FRAME_HEAD_BYTES;
    if (b->start == b->end)
        b->start = b->end = 0;
    if (least > b->capacity)
        TRY(grow(b, least, err));
    else if (b->capacity - b->start < least)
        to_front(b);
    size_t missing = b->start + least - b->end;
    *at = b->data + b->end;
    *room = MIN(MAX(missing, READ_AHEAD), b->capacity - b->end);
    return 0;
}

void inbox_free(struct inbox *b)
{
    free(b->data);
    *b = (struct inbox){0};
}

/* ---- out ---- */
int outbox_new(struct outbox *b, size_t size, struct outgoing **out, struct err *err)
{
    if (b->bytes > b->max || size > b->max - b->bytes)
        return err_set(err, ERR_TEMPORARY, "%zu MiB wait to be sent already; the other end reads too slowly", b->bytes >> 20);
    for (struct outgoing **p = &b->spare; *p; p = &(*p)->next) {
        struct outgoing *f = *p;
        if (f->capacity < size || f->capacity / 4 > size)
            continue;
        *p = f->next;
        b->spares--;
        f->size = size;
        *out = f;
        return 0;
    }
    struct outgoing *f = malloc(sizeof *f + size);
    if (!f)
        return err_set(err, ERR_NO_MEMORY, "no memory for a message of %zu bytes", size);
    f->size = f->capacity = size;
    *out = f;
    return 0;
}

void outbox_add(struct outbox *b, struct outgoing *f)
{
    f->next = NULL;
    if (b->last)
        b->last->next = f;
    else
        b->first = f;
    b->last = f;
    b->bytes += f->size;
}

unsigned outbox_peek(const struct outbox *b, struct iovec *v, unsigned max)
{
    unsigned n = 0;
    size_t skip = b->sent;
    for (struct outgoing *f = b->first; f && n < max; f = f->next) {
        v[n++] = (struct iovec){f->data + skip, f->size - skip};
        skip = 0;
    }
    return n;
}

static void drop_first(struct outbox *b)
{
    struct outgoing *f = b->first;
    b->first = f->next;
    if (!b->first)
        b->last = NULL;
    b->bytes -= f->size;
    if (b->spares == SPARES_MAX || f->capacity < SPARE_BYTES_MIN || f->capacity > SPARE_BYTES_MAX) {
        free(f);
        return;
    }
    f->next = b->spare;
    b->spare = f;
    b->spares++;
}

void outbox_sent(struct outbox *b, size_t n)
{
    b->sent += n;
    while (b->first && b->sent >= b->first->size) {
        b->sent -= b->first->size;
        drop_first(b);
    }
}

void outbox_clear(struct outbox *b)
{
    while (b->first)
        drop_first(b);
    while (b->spare) {
        struct outgoing *f = b->spare;
        b->spare = f->next;
        free(f);
    }
    *b = (struct outbox){0};
}
