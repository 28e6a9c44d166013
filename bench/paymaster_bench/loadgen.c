/* A load generator: POST over HTTP/1.1 keep-alive connections, closed loop or on a schedule.
 *
 *   loadgen ADDRESS PORT CONNECTIONS SECONDS RATE PATH KEY PREFIX FIRST BODIES SAMPLE
 *
 * RATE 0 is the closed loop: every connection sends its next request when it has its answer. With
 * a RATE, request i is due at i / RATE seconds after the start whatever the answers do; when no
 * connection is free it waits, and its latency counts from when it was due.
 *
 * Request i has line i (modulo their number) of the file BODIES as its body, and PREFIX-i, counted
 * from FIRST, as its Idempotency-Key; KEY is the bearer token. Every 64th answer is written to the
 * file SAMPLE as "i status body". The result is one line of JSON on standard output.
 *
 * Latencies go into a histogram whose buckets are at most 1/64 of their value wide.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SUB = 64, BUCKETS = 64 * SUB, BUFFER = 65536, HEADERS = 1024, SAMPLE_EVERY = 64 };

struct connection {
    int fd;
    int busy;
    uint64_t due;      /* nanoseconds: when the request should have been sent */
    long number;       /* which request it carries */
    size_t have;       /* bytes of the answer so far */
    size_t out, sent;  /* bytes of the request, and how many of them have left */
    char request[BUFFER];
    char answer[BUFFER];
};

static struct connection *connections;
static int connection_count, epoll_fd;
static struct sockaddr_in target;
static const char *path, *token, *prefix, *address;
static long first;
static char **bodies;
static size_t *body_lengths;
static long body_count;
static FILE *sample;
static uint64_t histogram[BUCKETS];
static long statuses[600];
static long answered, broken;
static uint64_t slowest;

static void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int bucket_of(uint64_t microseconds) {
    if (microseconds < SUB) return (int)microseconds;
    int shift = 63 - __builtin_clzll(microseconds) - 6;
    int at = (shift + 1) * SUB + (int)((microseconds >> shift) - SUB);
    return at < BUCKETS ? at : BUCKETS - 1;
}

static uint64_t bucket_value(int at) {
    if (at < SUB) return (uint64_t)at;
    int shift = at / SUB - 1;
    return ((uint64_t)(at % SUB + SUB) << shift) + ((uint64_t)1 << shift) / 2;
}

static uint64_t quantile(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    uint64_t wanted = (uint64_t)(share * (double)total);
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) return bucket_value(i);
    }
    return slowest;
}

static void watch(struct connection *c, int verb, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, verb, c->fd, &event) < 0) fail("epoll_ctl");
}

static void open_connection(struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    if (connect(c->fd, (struct sockaddr *)&target, sizeof target) < 0) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->busy = 0;
    c->have = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void push(struct connection *c) {
    while (c->sent < c->out) {
        ssize_t n = send(c->fd, c->request + c->sent, c->out - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n <= 0) return; /* the read side sees that it was closed */
        c->sent += (size_t)n;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void begin(struct connection *c, long number, uint64_t due) {
    long which = (first + number) % body_count;
    int head = snprintf(c->request, HEADERS,
                        "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"
                        "Content-Type: application/json\r\nIdempotency-Key: %s-%ld\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        path, address, token, prefix, first + number, body_lengths[which]);
    memcpy(c->request + head, bodies[which], body_lengths[which]);
    c->out = (size_t)head + body_lengths[which];
    c->sent = c->have = 0;
    c->busy = 1;
    c->due = due;
    c->number = number;
    push(c);
}

static void lose(struct connection *c) {
    if (c->busy) broken++;
    close(c->fd);
    open_connection(c);
}

/* How long the answer is once it is complete, else 0; -1 when it cannot be read. */
static long complete(struct connection *c, char **body, size_t *length) {
    c->answer[c->have] = 0;
    char *end = strstr(c->answer, "\r\n\r\n");
    if (!end) return 0;
    char *at = strcasestr(c->answer, "\r\ncontent-length:");
    if (!at || at > end) return -1;
    *length = (size_t)strtol(at + 17, NULL, 10);
    *body = end + 4;
    size_t total = (size_t)(*body - c->answer) + *length;
    if (total >= BUFFER) return -1;
    return c->have >= total ? (long)total : 0;
}

static void count(struct connection *c, const char *body, size_t length) {
    uint64_t took = now() - c->due;
    int status = atoi(c->answer + 9);
    histogram[bucket_of(took / 1000)]++;
    if (took > slowest * 1000) slowest = took / 1000;
    statuses[status > 0 && status < 600 ? status : 0]++;
    answered++;
    if (c->number % SAMPLE_EVERY == 0)
        fprintf(sample, "%ld %d %.*s\n", first + c->number, status, (int)length, body);
}

/* Read what is there; 1 when the connection has become free. */
static int take(struct connection *c) {
    char *body;
    size_t length;
    ssize_t n = recv(c->fd, c->answer + c->have, BUFFER - 1 - c->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0) {
        lose(c);
        return 1;
    }
    c->have += (size_t)n;
    long done = c->busy ? complete(c, &body, &length) : -1;
    if (done < 0) {
        lose(c);
        return 1;
    }
    if (done == 0) return 0;
    count(c, body, length);
    c->busy = 0;
    return 1;
}

static void load_bodies(const char *file) {
    FILE *in = fopen(file, "r");
    if (!in) fail(file);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    long space = 0;
    while ((n = getline(&line, &room, in)) > 0) {
        if (line[n - 1] == '\n') n--;
        if (n + HEADERS >= BUFFER) fail("a body is too long");
        if (body_count == space) {
            space = space ? 2 * space : 1024;
            bodies = realloc(bodies, (size_t)space * sizeof *bodies);
            body_lengths = realloc(body_lengths, (size_t)space * sizeof *body_lengths);
            if (!bodies || !body_lengths) fail("memory");
        }
        bodies[body_count] = strndup(line, (size_t)n);
        body_lengths[body_count++] = (size_t)n;
    }
    free(line);
    fclose(in);
    if (!body_count) fail("no bodies");
}

/* Sleep until something can be read or written, or until the moment. */
static void wait_for_event(uint64_t moment) {
    struct pollfd one = {.fd = epoll_fd, .events = POLLIN};
    uint64_t t = now();
    uint64_t left = moment > t ? moment - t : 0;
    struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    if (ppoll(&one, 1, &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
}

static void run(double seconds, double rate) {
    struct epoll_event events[256];
    struct connection **idle = calloc((size_t)connection_count, sizeof *idle);
    int idle_count = 0;
    long number = 0, wanted = rate > 0 ? (long)(seconds * rate) : 0;
    for (int i = 0; i < connection_count; i++) idle[idle_count++] = &connections[i];
    uint64_t start = now(), until = start + (uint64_t)(seconds * 1e9);
    for (;;) {
        uint64_t t = now();
        while (idle_count) {
            uint64_t due = rate > 0 ? start + (uint64_t)((double)number * 1e9 / rate) : t;
            if (rate > 0 ? number >= wanted || due > t : t >= until) break;
            begin(idle[--idle_count], number++, due);
        }
        int over = rate > 0 ? number >= wanted : t >= until;
        if (over && idle_count == connection_count) break;
        if (t > until + 60000000000u) break; /* what is unanswered by now counts as broken */
        wait_for_event(rate > 0 && !over && idle_count ? start + (uint64_t)((double)number * 1e9 / rate)
                                                       : t + 100000000u);
        int n = epoll_wait(epoll_fd, events, 256, 0);
        if (n < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && take(c)) idle[idle_count++] = c;
        }
    }
    broken += connection_count - idle_count;
    double took = (double)(now() - start) / 1e9;
    printf("{\"sent\": %ld, \"answered\": %ld, \"broken\": %ld, \"seconds\": %.6f, ", number, answered,
           broken, took);
    printf("\"p50_us\": %llu, \"p99_us\": %llu, \"p999_us\": %llu, \"max_us\": %llu, \"statuses\": {",
           (unsigned long long)quantile(0.5), (unsigned long long)quantile(0.99),
           (unsigned long long)quantile(0.999), (unsigned long long)slowest);
    const char *comma = "";
    for (int i = 0; i < 600; i++)
        if (statuses[i]) {
            printf("%s\"%d\": %ld", comma, i, statuses[i]);
            comma = ", ";
        }
    printf("}}\n");
    free(idle);
}

int main(int argc, char **argv) {
    if (argc != 12) {
        fprintf(stderr, "usage: see the top of loadgen.c\n");
        return 2;
    }
    address = argv[1];
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(argv[2]));
    if (inet_pton(AF_INET, address, &target.sin_addr) != 1) fail("address");
    connection_count = atoi(argv[3]);
    path = argv[6];
    token = argv[7];
    prefix = argv[8];
    first = atol(argv[9]);
    load_bodies(argv[10]);
    sample = fopen(argv[11], "w");
    if (!sample) fail(argv[11]);
    connections = calloc((size_t)connection_count, sizeof *connections);
    epoll_fd = epoll_create1(0);
    if (!connections || epoll_fd < 0) fail("start");
    for (int i = 0; i < connection_count; i++) open_connection(&connections[i]);
    run(atof(argv[4]), atof(argv[5]));
    fclose(sample);
    return 0;
}
