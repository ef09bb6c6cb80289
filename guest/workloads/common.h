/*
 * What the workloads share: marker lines, a clock, argument parsing, memory to be swapped.
 * Kept to plain C11 and POSIX so that the same files build for 32-bit ARM.
 */
#ifndef RAMZSWAP_WORKLOADS_COMMON_H
#define RAMZSWAP_WORKLOADS_COMMON_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* One marker is one write(2), so that nothing of ours can land in the middle of it. */
__attribute__((format(printf, 1, 2))) static inline void marker(const char *format, ...)
{
    char line[512];
    int length = snprintf(line, sizeof line, "RZS: ");
    va_list arguments;

    va_start(arguments, format);
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        exit(3);
}

static inline uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A whole decimal number in [min, max], or the program ends with a usage error. */
static inline unsigned long parse_number(const char *name, const char *text, unsigned long min,
                                         unsigned long max)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "%s: expected a number from %lu to %lu, got %s\n", name, min, max, text);
        exit(2);
    }
    return value;
}

/*
 * Anonymous memory. MAP_NORESERVE, because the default overcommit heuristic refuses a single
 * mapping larger than memory plus swap, and running out on *use* is what these programs are for.
 */
static inline void *map_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED) {
        fprintf(stderr, "mmap of %zu bytes: %s\n", bytes, strerror(errno));
        exit(3);
    }
    return memory;
}

/* Ends the program for a reason in errno. */
__attribute__((noreturn)) static inline void fail_system(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(3);
}

/* In use on all swap devices together, as the kernel counts; 0 where it has no swap. */
static inline unsigned long swap_used_kb(void)
{
    FILE *swaps = fopen("/proc/swaps", "r");
    char line[256];
    unsigned long total = 0;
    unsigned long used;

    while (swaps != NULL && fgets(line, sizeof line, swaps) != NULL)
        if (sscanf(line, "%*s %*s %*u %lu", &used) == 1)
            total += used;
    if (swaps != NULL)
        fclose(swaps);
    return total;
}

#endif
