/*
 * The front end's side of vhost-user, as much of it as client.c needs: messages with a reply of
 * their own, and messages that are acknowledged where the back end can. Names are those of QEMU's
 * vhost-user document. Whatever goes wrong ends the process.
 */
#ifndef BENCH_PATH_VHOST_USER_H
#define BENCH_PATH_VHOST_USER_H
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("bench-path client: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(1);
}

enum {
  GET_FEATURES = 1,
  SET_FEATURES = 2,
  SET_OWNER = 3,
  SET_MEM_TABLE = 5,
  SET_VRING_NUM = 8,
  SET_VRING_ADDR = 9,
  SET_VRING_BASE = 10,
  SET_VRING_KICK = 12,
  SET_VRING_CALL = 13,
  GET_PROTOCOL_FEATURES = 15,
  SET_PROTOCOL_FEATURES = 16,
  GET_QUEUE_NUM = 17,
  SET_VRING_ENABLE = 18,
  GET_CONFIG = 24,
};
enum { FLAG_VERSION = 1, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };
#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30)
#define PROTOCOL_F_MQ (1ull << 0)
#define PROTOCOL_F_REPLY_ACK (1ull << 3)
#define PROTOCOL_F_CONFIG (1ull << 9)

struct message {
  uint32_t request, flags, size;
  union {
    uint64_t u64;
    struct {
      uint32_t index, num;
    } vring;
    struct {
      uint32_t index, flags;
      uint64_t desc, used, avail, log;
    } address;
    struct {
      uint32_t count, padding;
      uint64_t guest_address, bytes, user_address, mmap_offset;
    } memory;
    struct {
      uint32_t offset, size, flags;
      uint64_t capacity;
    } __attribute__((packed)) config;
  } payload;
} __attribute__((packed));
enum { HEADER = 12 };

static int connection;
static bool has_reply_ack;

static void send_message(struct message *message, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                          .cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS}};
  struct iovec bytes = {message, HEADER + message->size};
  struct msghdr header = {.msg_iov = &bytes, .msg_iovlen = 1};
  if (fd >= 0) {
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    header.msg_control = &control;
    header.msg_controllen = sizeof control.bytes;
  }
  if (sendmsg(connection, &header, MSG_NOSIGNAL) != (ssize_t)bytes.iov_len) {
    fail("request %u: send: %s", message->request, strerror(errno));
  }
}

static void receive_exactly(void *into, size_t bytes, uint32_t request) {
  ssize_t got = recv(connection, into, bytes, MSG_WAITALL);
  if (got != (ssize_t)bytes) fail("request %u: the back end has closed the connection", request);
}

/* Takes the reply to `message` in its place. */
static void receive_reply(struct message *message) {
  uint32_t request = message->request;
  receive_exactly(message, HEADER, request);
  if (message->request != request || (message->flags & FLAG_REPLY) == 0) {
    fail("request %u: got %u, flags %#x", request, message->request, message->flags);
  }
  if (message->size > sizeof message->payload) fail("request %u: reply too long", request);
  receive_exactly(&message->payload, message->size, request);
}

/* A request with a reply of its own. */
static void query(struct message *message) {
  message->flags = FLAG_VERSION;
  send_message(message, -1);
  receive_reply(message);
}

static uint64_t query_u64(uint32_t request) {
  struct message message = {.request = request};
  query(&message);
  if (message.size != 8) fail("request %u: expected 8 bytes, got %u", request, message.size);
  return message.payload.u64;
}

/* A request that is acknowledged, where the back end can. `fd` negative: none goes along. */
static void order(struct message message, uint32_t size, int fd) {
  uint32_t request = message.request;
  message.size = size;
  message.flags = FLAG_VERSION | (has_reply_ack ? FLAG_NEED_REPLY : 0);
  send_message(&message, fd);
  if (!has_reply_ack) return;
  receive_reply(&message);
  if (message.payload.u64 != 0) fail("request %u: refused", request);
}

static void order_u64(uint32_t request, uint64_t value, int fd) {
  order((struct message){.request = request, .payload.u64 = value}, 8, fd);
}

static void order_vring(uint32_t request, uint32_t index, uint32_t num) {
  order((struct message){.request = request, .payload.vring = {index, num}}, 8, -1);
}

static void connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) fail("%s: too long for a socket", path);
  strcpy(address.sun_path, path);
  connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connection < 0 || connect(connection, (void *)&address, sizeof address) != 0) {
    fail("%s: %s", path, strerror(errno));
  }
}

#endif
