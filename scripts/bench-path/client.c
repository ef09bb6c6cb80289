/*
 * A small vhost-user-blk front end, native and in a process of its own: it drives any back end over
 * its socket as a guest's kernel would, times every request, and checks what it reads. Not a
 * program for people; client.ts compiles and drives it.
 *
 *   client SOCKET CORPUS PAGES [--queues N] [--backend-pid PID] [--spin] [--no-indirect]
 *
 * CORPUS holds pages of 4096 bytes; PAGES of the disk are used. One job a line on stdin, one JSON
 * object a line on stdout:
 *   fill                                 writes every page once, in order
 *   verify                               reads every page and compares every byte
 *   discard KEEP                         discards all but each KEEP-th page (2 to 17)
 *   read|write|mixed random|sequential BLOCK_BYTES DEPTH seconds|count N
 *
 * As a guest's kernel does: pages are written from guest memory in place, one descriptor a page, in
 * an indirect table; kicks and interrupts are suppressed by event index; when nothing has completed
 * it enables the interrupt, looks again, and sleeps until the call eventfd is signalled. A page has
 * one request in flight at most. What differs from a kernel: nothing else costs anything here.
 *
 * Timed reads compare one cache line of each page, at a random place; a wrong byte, a wrong status
 * or an answer that does not come ends the process with a message and status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "latency.h"
#include "vhost-user.h"

enum {
  PAGE = 4096,
  SECTORS_PER_PAGE = PAGE / 512,
  /* QEMU's ring. */
  RING = 128,
  QUEUES_MAX = 16,
  BLOCK_PAGES_MAX = 16,
  CHAIN_MAX = BLOCK_PAGES_MAX + 2,
  DEPTH_MAX = RING,
  QUEUE_BYTES = 2 * PAGE,
  AVAIL_AT = RING * 16,
  USED_AT = PAGE,
  /* Where reads land: more than the second-level cache, as pages that a guest swaps in are. */
  LANDING_PAGES = 4096,
  ANSWER_SECONDS = 20,
  LINE = 64,
  NO_STATUS = 0xee,
};
/* Guest addresses and addresses of this process differ, as they do in QEMU. */
static const uint64_t GUEST_BASE = 1ull << 32;
static const uint32_t NOT_WRITTEN = UINT32_MAX;

static void on_alarm(int signal) {
  (void)signal;
  static const char text[] = "bench-path client: the back end does not answer\n";
  (void)!write(STDERR_FILENO, text, sizeof text - 1);
  _exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t) != 0) fail("clock_gettime: %s", strerror(errno));
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64*: the same requests in every run. */
static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t random_below(uint32_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  uint64_t high = (random_state * 0x2545f4914f6cdd1d) >> 32;
  return (uint32_t)((high * limit) >> 32);
}

/* ── Guest memory and rings ─────────────────────────────────────────────────────────────────── */

/* What a request has in guest memory besides its data. */
struct request {
  struct virtio_blk_outhdr header;
  struct virtio_blk_discard_write_zeroes range;
  struct vring_desc table[CHAIN_MAX];
  uint8_t status;
} __attribute__((aligned(LINE)));

struct queue {
  struct vring_desc *desc;
  struct vring_avail *avail;
  struct vring_used *used;
  int kick_fd, call_fd;
  /* What of the available ring has been published, and up to where the kick was considered. */
  uint16_t avail_idx, kicked_idx;
  uint16_t last_used;
};

static struct queue queues[QUEUES_MAX];
static unsigned queue_count = 1;
/* An epoll of the call eventfds, by edges: to be woken costs one system call, and no read. */
static int interrupts;
static bool spins, has_indirect = true, has_event_idx;
static uint8_t *guest;
static struct request *requests;
static uint8_t *landing, *guest_corpus;
/* The corpus as it was on disk: what the back end cannot have spoilt. */
static const uint8_t *corpus;
static uint32_t corpus_pages, disk_pages;

static uint64_t guest_address(const void *at) {
  return GUEST_BASE + (uint64_t)((const uint8_t *)at - guest);
}

static void read_corpus(const char *path) {
  struct stat status;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &status) != 0) fail("%s: %s", path, strerror(errno));
  corpus_pages = (uint32_t)(status.st_size / PAGE);
  if (corpus_pages == 0) fail("%s: no page in it", path);
  corpus = mmap(NULL, (size_t)corpus_pages * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
  if (corpus == MAP_FAILED) fail("%s: mmap: %s", path, strerror(errno));
  close(fd);
}

/* Lays out guest memory: rings, requests, pages for reads, the corpus. */
static void share_memory(void) {
  size_t requests_at = (size_t)queue_count * QUEUE_BYTES;
  size_t landing_at = requests_at + (DEPTH_MAX * sizeof(struct request) + PAGE - 1) / PAGE * PAGE;
  size_t corpus_at = landing_at + (size_t)LANDING_PAGES * PAGE;
  size_t bytes = corpus_at + (size_t)corpus_pages * PAGE;

  int fd = memfd_create("bench-path-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) fail("memfd: %s", strerror(errno));
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) fail("F_ADD_SEALS: %s", strerror(errno));
  guest = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (guest == MAP_FAILED) fail("guest memory: mmap: %s", strerror(errno));
  requests = (struct request *)(guest + requests_at);
  landing = guest + landing_at;
  guest_corpus = guest + corpus_at;
  memcpy(guest_corpus, corpus, (size_t)corpus_pages * PAGE);

  struct message table = {.request = SET_MEM_TABLE};
  table.payload.memory.count = 1;
  table.payload.memory.guest_address = GUEST_BASE;
  table.payload.memory.bytes = bytes;
  table.payload.memory.user_address = (uint64_t)(uintptr_t)guest;
  order(table, sizeof table.payload.memory, fd);
  close(fd);
}

static void start_queue(uint32_t index) {
  struct queue *queue = &queues[index];
  uint8_t *at = guest + (size_t)index * QUEUE_BYTES;
  queue->desc = (struct vring_desc *)at;
  queue->avail = (struct vring_avail *)(at + AVAIL_AT);
  queue->used = (struct vring_used *)(at + USED_AT);
  queue->kick_fd = eventfd(0, EFD_CLOEXEC);
  queue->call_fd = eventfd(0, EFD_CLOEXEC);
  if (queue->kick_fd < 0 || queue->call_fd < 0) fail("eventfd: %s", strerror(errno));
  struct epoll_event edge = {.events = EPOLLIN | EPOLLET};
  if (epoll_ctl(interrupts, EPOLL_CTL_ADD, queue->call_fd, &edge) != 0) {
    fail("epoll: %s", strerror(errno));
  }

  order_u64(SET_VRING_CALL, index, queue->call_fd);
  order_vring(SET_VRING_NUM, index, RING);
  order_vring(SET_VRING_BASE, index, 0);
  struct message address = {.request = SET_VRING_ADDR};
  address.payload.address.index = index;
  address.payload.address.desc = (uint64_t)(uintptr_t)queue->desc;
  address.payload.address.used = (uint64_t)(uintptr_t)queue->used;
  address.payload.address.avail = (uint64_t)(uintptr_t)queue->avail;
  order(address, sizeof address.payload.address, -1);
  order_u64(SET_VRING_KICK, index, queue->kick_fd);
  order_vring(SET_VRING_ENABLE, index, 1);
}

/* Features → protocol features → owner → memory → rings; then says what was agreed. */
static void handshake(void) {
  uint64_t offered = query_u64(GET_FEATURES);
  if ((offered & VHOST_USER_F_PROTOCOL_FEATURES) == 0) fail("no protocol features offered");
  uint64_t protocol = query_u64(GET_PROTOCOL_FEATURES);
  protocol &= PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_CONFIG;
  if ((protocol & PROTOCOL_F_CONFIG) == 0) fail("CONFIG is not offered");
  order_u64(SET_PROTOCOL_FEATURES, protocol, -1);
  has_reply_ack = (protocol & PROTOCOL_F_REPLY_ACK) != 0;
  uint64_t offered_queues = protocol & PROTOCOL_F_MQ ? query_u64(GET_QUEUE_NUM) : 1;
  if (queue_count > offered_queues) fail("%llu queues offered", (unsigned long long)offered_queues);
  order((struct message){.request = SET_OWNER}, 0, -1);

  uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
                    1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
                    1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_DISCARD;
  if (has_indirect) wanted |= 1ull << VIRTIO_RING_F_INDIRECT_DESC;
  if (queue_count > 1) wanted |= 1ull << VIRTIO_BLK_F_MQ;
  uint64_t features = offered & wanted;
  if ((features >> VIRTIO_F_VERSION_1 & 1) == 0) fail("VERSION_1 is not offered");
  has_indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
  has_event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
  order_u64(SET_FEATURES, features | VHOST_USER_F_PROTOCOL_FEATURES, -1);

  struct message config = {.request = GET_CONFIG, .size = sizeof config.payload.config};
  config.payload.config.size = sizeof config.payload.config.capacity;
  query(&config);
  if (config.size != sizeof config.payload.config) fail("GET_CONFIG: refused");
  uint64_t capacity = config.payload.config.capacity / SECTORS_PER_PAGE;
  if (capacity < disk_pages) fail("the disk has %llu pages only", (unsigned long long)capacity);

  share_memory();
  interrupts = epoll_create1(EPOLL_CLOEXEC);
  if (interrupts < 0) fail("epoll: %s", strerror(errno));
  for (uint32_t i = 0; i < queue_count; i++) start_queue(i);
  printf("{\"capacityPages\":%llu,\"eventIdx\":%s,\"indirect\":%s}\n", (unsigned long long)capacity,
         has_event_idx ? "true" : "false", has_indirect ? "true" : "false");
}

/* ── Requests ───────────────────────────────────────────────────────────────────────────────── */

enum operation { READ, WRITE, MIXED, FILL, VERIFY, DISCARD };

static struct job {
  enum operation operation;
  bool is_random;
  uint32_t block_pages, depth;
  /* Ends when so many requests were sent or this time has come. */
  uint64_t count, end_ns;
  /* Blocks begin so many pages apart: a block's length but for discards. */
  uint32_t stride_pages;
} job;

/* A request in flight, in this process's own memory. */
static struct slot {
  uint64_t sent_ns;
  uint32_t type, first_page, turn;
  bool is_in_flight;
  uint32_t sources[BLOCK_PAGES_MAX];
} slots[DEPTH_MAX];

/* Corpus page that each page of the disk holds. */
static uint32_t *written;
static uint8_t *busy;
static uint64_t sent, done, pages_moved, kicks, sleeps;
static uint32_t next_block, in_flight;

static uint8_t *landing_page(uint32_t slot, uint32_t page) {
  uint32_t share = LANDING_PAGES / job.depth;
  uint32_t blocks = share / job.block_pages;
  uint32_t block = slots[slot].turn % blocks;
  return landing + (size_t)(slot * share + block * job.block_pages + page) * PAGE;
}

/* HOT PATH. The first page of the next block: no page has two requests in flight. */
static uint32_t pick_block(void) {
  uint32_t blocks = disk_pages / job.stride_pages;
  uint32_t block;
  do {
    block = job.is_random ? random_below(blocks) : next_block++ % blocks;
  } while (busy[block * job.stride_pages]);
  return block * job.stride_pages;
}

static uint32_t pick_type(void) {
  switch (job.operation) {
    case READ:
    case VERIFY:
      return VIRTIO_BLK_T_IN;
    case MIXED:
      return random_below(10) < 7 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
    case DISCARD:
      return VIRTIO_BLK_T_DISCARD;
    default:
      return VIRTIO_BLK_T_OUT;
  }
}

/* Descriptors of the data, from `desc` on, not chained yet; the one behind them. */
static struct vring_desc *put_data(uint32_t index, struct vring_desc *desc) {
  struct slot *slot = &slots[index];
  struct request *request = &requests[index];
  if (slot->type == VIRTIO_BLK_T_DISCARD) {
    request->range = (struct virtio_blk_discard_write_zeroes){
        .sector = (uint64_t)slot->first_page * SECTORS_PER_PAGE,
        .num_sectors = job.block_pages * SECTORS_PER_PAGE,
    };
    *desc++ = (struct vring_desc){guest_address(&request->range), sizeof request->range, 0, 0};
    return desc;
  }
  for (uint32_t i = 0; i < job.block_pages; i++) {
    if (slot->type == VIRTIO_BLK_T_IN) {
      uint64_t to = guest_address(landing_page(index, i));
      *desc++ = (struct vring_desc){to, PAGE, VRING_DESC_F_WRITE, 0};
      continue;
    }
    uint32_t page = slot->first_page + i;
    slot->sources[i] = job.operation == FILL ? page % corpus_pages : random_below(corpus_pages);
    const uint8_t *source = guest_corpus + (size_t)slot->sources[i] * PAGE;
    *desc++ = (struct vring_desc){guest_address(source), PAGE, 0, 0};
  }
  return desc;
}

/* HOT PATH. Chooses a request for a slot, lays it out and makes it available. */
static void submit(uint32_t index) {
  struct slot *slot = &slots[index];
  struct request *request = &requests[index];
  struct queue *queue = &queues[index % queue_count];
  slot->type = pick_type();
  slot->first_page = pick_block();
  slot->turn++;
  busy[slot->first_page] = 1;
  request->header.type = slot->type;
  request->header.sector = (uint64_t)slot->first_page * SECTORS_PER_PAGE;
  request->status = NO_STATUS;

  /* Descriptors of the ring belong to slots for good. */
  uint32_t chain = has_indirect ? 1 : job.block_pages + 2;
  uint32_t head = index / queue_count * chain;
  uint32_t first = has_indirect ? 0 : head;
  struct vring_desc *table = has_indirect ? request->table : queue->desc + head;
  table[0] = (struct vring_desc){guest_address(&request->header), sizeof request->header, 0, 0};
  struct vring_desc *last = put_data(index, table + 1);
  *last = (struct vring_desc){guest_address(&request->status), 1, VRING_DESC_F_WRITE, 0};
  for (struct vring_desc *desc = table; desc < last; desc++) {
    desc->flags |= VRING_DESC_F_NEXT;
    desc->next = (uint16_t)(first + (uint32_t)(desc - table) + 1);
  }
  if (has_indirect) {
    uint32_t bytes = (uint32_t)(last - table + 1) * sizeof *table;
    queue->desc[head] = (struct vring_desc){guest_address(table), bytes, VRING_DESC_F_INDIRECT, 0};
  }
  slot->sent_ns = clock_ns(CLOCK_MONOTONIC);
  queue->avail->ring[queue->avail_idx % RING] = (uint16_t)head;
  __atomic_store_n(&queue->avail->idx, ++queue->avail_idx, __ATOMIC_RELEASE);
  slot->is_in_flight = true;
  sent++;
  in_flight++;
}

static void submit_if_more(uint32_t index, uint64_t now) {
  if (sent < job.count && now < job.end_ns) submit(index);
}

/* VIRTIO 1.2 §2.7.10: one kick for all that was made available since the last, if it is wanted. */
static void kick(struct queue *queue) {
  if (queue->avail_idx == queue->kicked_idx) return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  uint16_t event = __atomic_load_n((uint16_t *)&queue->used->ring[RING], __ATOMIC_RELAXED);
  bool wanted = has_event_idx
      ? vring_need_event(event, queue->avail_idx, queue->kicked_idx)
      : (__atomic_load_n(&queue->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) == 0;
  queue->kicked_idx = queue->avail_idx;
  if (!wanted) return;
  kicks++;
  if (eventfd_write(queue->kick_fd, 1) != 0) fail("kick: %s", strerror(errno));
}

static void compare(uint32_t index, uint32_t page) {
  struct slot *slot = &slots[index];
  uint32_t source = written[slot->first_page + page];
  if (source == NOT_WRITTEN) {
    if (job.operation != VERIFY) fail("page %u was never written", slot->first_page + page);
    return;
  }
  uint32_t from = job.operation == VERIFY ? 0 : random_below(PAGE / LINE) * LINE;
  uint32_t bytes = job.operation == VERIFY ? PAGE : LINE;
  const uint8_t *expected = corpus + (size_t)source * PAGE;
  if (memcmp(landing_page(index, page) + from, expected + from, bytes) != 0) {
    fail("page %u is not what was written", slot->first_page + page);
  }
}

/* HOT PATH. Checks a request that has come back and takes note of what the disk holds now. */
static void complete(uint32_t index) {
  struct slot *slot = &slots[index];
  uint8_t status = __atomic_load_n(&requests[index].status, __ATOMIC_RELAXED);
  if (status != VIRTIO_BLK_S_OK) {
    fail("page %u, type %u: status %u", slot->first_page, slot->type, status);
  }
  for (uint32_t i = 0; i < job.block_pages; i++) {
    if (slot->type == VIRTIO_BLK_T_IN) compare(index, i);
    else if (slot->type == VIRTIO_BLK_T_OUT) written[slot->first_page + i] = slot->sources[i];
    else written[slot->first_page + i] = NOT_WRITTEN;
  }
  slot->is_in_flight = false;
  busy[slot->first_page] = 0;
  pages_moved += job.block_pages;
  done++;
  in_flight--;
}

/* HOT PATH. Takes what has completed, sends as many new requests; how many. */
static uint32_t reap(uint32_t index) {
  struct queue *queue = &queues[index];
  uint32_t chain = has_indirect ? 1 : job.block_pages + 2;
  uint32_t count = 0;
  while (queue->last_used != __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE)) {
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint32_t head = queue->used->ring[queue->last_used % RING].id;
    uint32_t slot = head / chain * queue_count + index;
    if (slot >= job.depth || head % chain != 0 || !slots[slot].is_in_flight) {
      fail("queue %u: a used element names descriptor %u", index, head);
    }
    queue->last_used++;
    note_latency(now - slots[slot].sent_ns);
    complete(slot);
    submit_if_more(slot, now);
    count++;
  }
  if (count > 0) kick(queue);
  return count;
}

/* VIRTIO 1.2 §2.7.8: asks for an interrupt of the next completion. True: one is there already. */
static bool enable_interrupt(struct queue *queue) {
  if (has_event_idx) {
    __atomic_store_n(&queue->avail->ring[RING], queue->last_used, __ATOMIC_RELAXED);
  } else {
    __atomic_store_n(&queue->avail->flags, 0, __ATOMIC_RELAXED);
  }
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return queue->last_used != __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE);
}

/* By event index there is nothing to do: the event stays behind, where nothing reaches it. */
static void disable_interrupt(struct queue *queue) {
  if (!has_event_idx) {
    __atomic_store_n(&queue->avail->flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
  }
}

static void wait_for_interrupt(void) {
  if (spins) return;
  bool is_there = false;
  for (uint32_t i = 0; i < queue_count; i++) is_there |= enable_interrupt(&queues[i]);
  if (!is_there) {
    struct epoll_event events[QUEUES_MAX];
    sleeps++;
    if (epoll_wait(interrupts, events, QUEUES_MAX, -1) < 0) fail("wait: %s", strerror(errno));
  }
  for (uint32_t i = 0; i < queue_count; i++) disable_interrupt(&queues[i]);
}

static void run_job(void) {
  uint64_t start = clock_ns(CLOCK_MONOTONIC);
  for (uint32_t slot = 0; slot < job.depth; slot++) submit_if_more(slot, start);
  for (uint32_t i = 0; i < queue_count; i++) kick(&queues[i]);
  while (in_flight > 0) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < queue_count; i++) count += reap(i);
    if (count == 0 && in_flight > 0) wait_for_interrupt();
  }
}

/* ── Jobs ───────────────────────────────────────────────────────────────────────────────────── */

/* All of the disk once, at a depth that any back end likes. */
static void whole_disk(enum operation operation, uint32_t block_pages, uint32_t stride_pages) {
  job = (struct job){.operation = operation, .depth = 32, .block_pages = block_pages};
  job.stride_pages = stride_pages;
  job.count = disk_pages / stride_pages;
  job.end_ns = UINT64_MAX;
}

static bool parse_timed(const char *line) {
  char operation[16], pattern[16], unit[16];
  unsigned block_bytes, depth;
  double limit;
  int fields = sscanf(line, "%15s %15s %u %u %15s %lf", operation, pattern, &block_bytes, &depth,
                      unit, &limit);
  if (fields != 6) return false;
  static const char *const names[] = {"read", "write", "mixed"};
  job = (struct job){.depth = depth, .block_pages = block_bytes / PAGE, .count = UINT64_MAX};
  while (strcmp(operation, names[job.operation]) != 0) {
    if (++job.operation == sizeof names / sizeof *names) return false;
  }
  job.stride_pages = job.block_pages;
  job.is_random = strcmp(pattern, "random") == 0;
  job.end_ns = UINT64_MAX;
  if (strcmp(unit, "count") == 0) job.count = (uint64_t)limit;
  else job.end_ns = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(limit * 1e9);
  uint32_t chain = has_indirect ? 1 : job.block_pages + 2;
  bool fits = (depth + queue_count - 1) / queue_count * chain <= RING && depth <= DEPTH_MAX;
  bool has_room = job.block_pages > 0 && job.block_pages <= BLOCK_PAGES_MAX &&
                  depth > 0 && disk_pages / job.block_pages >= 2 * depth;
  return fits && has_room && limit > 0;
}

static bool parse(const char *line) {
  unsigned keep;
  if (strcmp(line, "fill") == 0) whole_disk(FILL, 1, 1);
  else if (strcmp(line, "verify") == 0) whole_disk(VERIFY, 1, 1);
  else if (sscanf(line, "discard %u", &keep) == 1) {
    if (keep < 2 || keep > BLOCK_PAGES_MAX + 1) return false;
    whole_disk(DISCARD, keep - 1, keep);
  } else return parse_timed(line);
  return true;
}

static void execute(const char *line, clockid_t backend_clock) {
  sent = done = pages_moved = kicks = sleeps = 0;
  next_block = 0;
  forget_latencies();
  if (!parse(line)) fail("no such job: %s", line);
  uint64_t now = clock_ns(CLOCK_MONOTONIC);
  uint64_t limit = job.end_ns == UINT64_MAX ? 600 : (job.end_ns - now) / 1000000000u;
  alarm((unsigned)limit + ANSWER_SECONDS);
  /* The back end's own threads, those that end meanwhile and io_uring's workers included. */
  uint64_t backend_cpu = clock_ns(backend_clock);
  uint64_t client_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  uint64_t start = clock_ns(CLOCK_MONOTONIC);
  run_job();
  uint64_t elapsed = clock_ns(CLOCK_MONOTONIC) - start;
  client_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - client_cpu;
  backend_cpu = clock_ns(backend_clock) - backend_cpu;
  alarm(0);
  printf("{\"job\":\"%s\",\"requests\":%llu,\"pages\":%llu,\"elapsedNs\":%llu,\"p50Ns\":%llu,"
         "\"p99Ns\":%llu,\"p999Ns\":%llu,\"maxNs\":%llu,\"backendCpuNs\":%llu,\"clientCpuNs\":%llu,"
         "\"waitedBy\":\"%s\",\"kicks\":%llu,\"sleeps\":%llu}\n",
         line, (unsigned long long)done, (unsigned long long)pages_moved,
         (unsigned long long)elapsed, (unsigned long long)percentile(done, 0.5),
         (unsigned long long)percentile(done, 0.99), (unsigned long long)percentile(done, 0.999),
         (unsigned long long)latency_max, (unsigned long long)backend_cpu,
         (unsigned long long)client_cpu, spins ? "spinning" : "interrupt",
         (unsigned long long)kicks, (unsigned long long)sleeps);
  fflush(stdout);
}

int main(int argc, char **argv) {
  static const struct option options[] = {
      {"queues", required_argument, NULL, 'q'}, {"backend-pid", required_argument, NULL, 'p'},
      {"spin", no_argument, NULL, 's'},         {"no-indirect", no_argument, NULL, 'n'},
      {NULL, 0, NULL, 0}};
  pid_t backend = 0;
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (option == 'q') queue_count = (unsigned)atoi(optarg);
    else if (option == 'p') backend = atoi(optarg);
    else if (option == 's') spins = true;
    else if (option == 'n') has_indirect = false;
    else return 2;
  }
  if (argc - optind != 3) fail("expected SOCKET CORPUS PAGES");
  disk_pages = (uint32_t)atoi(argv[optind + 2]);
  if (queue_count < 1 || queue_count > QUEUES_MAX) fail("1 to %d queues", QUEUES_MAX);
  clockid_t backend_clock = CLOCK_PROCESS_CPUTIME_ID;
  if (backend > 0 && clock_getcpuclockid(backend, &backend_clock) != 0) fail("no such process");

  signal(SIGALRM, on_alarm);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  read_corpus(argv[optind + 1]);
  written = malloc(disk_pages * sizeof *written);
  busy = calloc(disk_pages, 1);
  if (!written || !busy) fail("out of memory");
  for (uint32_t i = 0; i < disk_pages; i++) written[i] = NOT_WRITTEN;
  alarm(ANSWER_SECONDS);
  connect_to(argv[optind]);
  handshake();
  fflush(stdout);
  alarm(0);

  char line[128];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = '\0';
    execute(line, backend_clock);
  }
  return 0;
}
