/*
 * liblzo2 for scripts/liblzo2.ts, which compiles and drives this: compresses and decompresses a
 * file of 4096-byte pages in slices, on command, so that its slices alternate with others' on the
 * same moment of the machine. Not a program for people.
 *
 * Arguments: the corpus file. One command a line on stdin, one answer a line on stdout:
 *   size       compressed bytes of the whole corpus
 *   c PASSES   compress the corpus PASSES times; nanoseconds taken, and of them on a processor
 *   d PASSES   decompress it (lzo1x_decompress_safe) PASSES times; the same
 */
#include <lzo/lzo1x.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096, WORST = PAGE + PAGE / 16 + 64 + 3 };

static long long now_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "bench-codec: %s\n", what);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 2) fail("expected the corpus file as the only argument");
  FILE *file = fopen(argv[1], "rb");
  if (!file) fail("cannot open the corpus");
  fseek(file, 0, SEEK_END);
  size_t pages = (size_t)ftell(file) / PAGE;
  rewind(file);

  unsigned char *corpus = aligned_alloc(PAGE, pages * PAGE);
  unsigned char *packed = malloc(pages * WORST);
  size_t *start = calloc(pages + 1, sizeof *start);
  unsigned char *work = aligned_alloc(64, LZO1X_1_MEM_COMPRESS);
  static unsigned char out[WORST] __attribute__((aligned(64)));
  if (!corpus || !packed || !start || !work) fail("out of memory");
  if (fread(corpus, PAGE, pages, file) != pages) fail("cannot read the corpus");
  fclose(file);
  if (lzo_init() != LZO_E_OK) fail("lzo_init");

  for (size_t i = 0; i < pages; i++) {
    lzo_uint bytes = WORST;
    lzo1x_1_compress(corpus + i * PAGE, PAGE, packed + start[i], &bytes, work);
    start[i + 1] = start[i] + bytes;
  }

  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    if (strncmp(line, "size", 4) == 0) {
      printf("%zu\n", start[pages]);
      fflush(stdout);
      continue;
    }
    int passes = atoi(line + 1);
    long long from = now_ns(CLOCK_MONOTONIC), cpu_from = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int pass = 0; pass < passes; pass++) {
      for (size_t i = 0; i < pages; i++) {
        lzo_uint bytes = line[0] == 'c' ? WORST : PAGE;
        int error = line[0] == 'c'
            ? lzo1x_1_compress(corpus + i * PAGE, PAGE, out, &bytes, work)
            : lzo1x_decompress_safe(packed + start[i], start[i + 1] - start[i], out, &bytes, NULL);
        if (error != LZO_E_OK) fail("liblzo2 refuses its own stream");
      }
    }
    long long cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_from;
    printf("%lld %lld\n", now_ns(CLOCK_MONOTONIC) - from, cpu);
    fflush(stdout);
  }
  return 0;
}
