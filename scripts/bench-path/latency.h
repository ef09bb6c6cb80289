/*
 * A histogram of latencies, for client.c: bounded memory for any number of requests, 0.8% of error
 * at most, and an exact maximum.
 */
#ifndef BENCH_PATH_LATENCY_H
#define BENCH_PATH_LATENCY_H
#include <stdint.h>
#include <string.h>

/* Buckets of a 128th of their power of two: 0.8% wide at most, up to 2^40 ns. */
enum { SUB_BITS = 7, BUCKETS = (40 - SUB_BITS + 2) << SUB_BITS };
static uint32_t latency[BUCKETS];
static uint64_t latency_max;

static unsigned bucket_of(uint64_t ns) {
  if (ns < 1u << SUB_BITS) return (unsigned)ns;
  unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS;
  unsigned bucket = ((shift + 1) << SUB_BITS) + (unsigned)((ns >> shift) & ((1u << SUB_BITS) - 1));
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The middle of a bucket. */
static uint64_t bucket_ns(unsigned bucket) {
  if (bucket < 1u << SUB_BITS) return bucket;
  unsigned shift = (bucket >> SUB_BITS) - 1;
  uint64_t low = ((uint64_t)(bucket & ((1u << SUB_BITS) - 1)) | 1u << SUB_BITS) << shift;
  return low + ((1ull << shift) >> 1);
}

static void forget_latencies(void) {
  memset(latency, 0, sizeof latency);
  latency_max = 0;
}

static void note_latency(uint64_t ns) {
  latency[bucket_of(ns)]++;
  if (ns > latency_max) latency_max = ns;
}

/* The latency that `part` of `count` requests did not exceed. */
static uint64_t percentile(uint64_t count, double part) {
  uint64_t wanted = (uint64_t)((double)count * part + 0.999999), seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += latency[i];
    if (seen >= wanted && seen > 0) return bucket_ns(i) < latency_max ? bucket_ns(i) : latency_max;
  }
  return latency_max;
}

#endif
