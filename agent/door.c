#include "agent/door.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <stdio.h>

#define DOOR_GUESTS_MAX 256

struct door {
    pthread_t thread;
    int listen_fd, stop_fd;
    struct pollfd poll[DOOR_GUESTS_MAX + 2];   /* 0: stop, 1: listener, then guests */
    nfds_t count;
};

static void drop(struct door *d, nfds_t i)
{
    close(d->poll[i].fd);
    d->poll[i] = d->poll[--d->count];
}

static void *keep(void *arg)
{
    struct door *d = arg;
    for (;;) {
        if (poll(d->poll, d->count, -1) < 0 && errno != EINTR)
            return NULL;
        if (d->poll[0].revents)
            return NULL;
        for (nfds_t i = d->count; i-- > 2;) {
            char byte[16];
            if (d->poll[i].revents && read(d->poll[i].fd, byte, sizeof byte) <= 0)
                drop(d, i);
        }
        if (!(d->poll[1].revents & POLLIN))
            continue;
        int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && d->count < DOOR_GUESTS_MAX + 2)
            d->poll[d->count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        else if (fd >= 0)
            close(fd);
    }
}

int door_open(const char *path, struct door **out, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return err_set(err, ERR_FAILED, "the socket path is longer than %zu bytes: %s", sizeof a.sun_path - 1, path);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    unlink(path);   /* of a dead agent: the run's lock says there is no other */
    int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), stop_fd = eventfd(0, EFD_CLOEXEC);
    struct door *d = calloc(1, sizeof *d);
    if (listen_fd < 0 || stop_fd < 0 || !d || bind(listen_fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(path, 0600) < 0 ||
        listen(listen_fd, 128) < 0) {
        int why = errno;
        close(listen_fd);
        close(stop_fd);
        free(d);
        return err_errno(err, why, "cannot listen on %s", path);
    }
    d->listen_fd = listen_fd;
    d->stop_fd = stop_fd;
    d->poll[0] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
    d->poll[1] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
    d->count = 2;
    int rc = pthread_create(&d->thread, NULL, keep, d);
    if (rc != 0) {
        close(listen_fd);
        close(stop_fd);
        free(d);
        return err_errno(err, rc, "cannot start a thread");
    }
    *out = d;
    return 0;
}

void door_close(struct door *d)
{
    if (!d)
        return;
    (void)!write(d->stop_fd, &(uint64_t){1}, 8);
    pthread_join(d->thread, NULL);
    for (nfds_t i = 0; i < d->count; i++)
        close(d->poll[i].fd);
    free(d);
}
