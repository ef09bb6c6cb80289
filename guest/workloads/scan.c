/*
 * scan MB LOOPS: allocates MB MiB and writes every byte of it LOOPS times, in address order.
 *
 * The access pattern that suits swap least (least recently used is exactly what comes next) and the
 * one the ancestor was measured with. A word holds its position and the loop that wrote it, so each
 * loop also checks what the one before left behind; such pages compress to less than half, as most
 * pages of programs do. Exit status: 0, 1 for a wrong word, 2 for usage, 3 for the environment.
 */
#include "common.h"

static uint64_t word_value(size_t position, unsigned long loop)
{
    return ((uint64_t)loop << 40) + position;
}

static void scan_once(uint64_t *words, size_t count, unsigned long loop)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t expected = word_value(i, loop - 1);

        if (loop > 1 && words[i] != expected) {
            marker("scan FAILED loop=%lu page=%zu offset=%zu expected=%016llx got=%016llx", loop,
                   i * 8 / 4096, i * 8 % 4096, (unsigned long long)expected,
                   (unsigned long long)words[i]);
            exit(1);
        }
        words[i] = word_value(i, loop);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: scan MB LOOPS\n");
        return 2;
    }
    unsigned long mb = parse_number("MB", argv[1], 1, (SIZE_MAX >> 20) - 1);
    unsigned long loops = parse_number("LOOPS", argv[2], 1, 1000000);
    size_t bytes = (size_t)mb << 20;

    marker("scan start mb=%lu loops=%lu", mb, loops);
    uint64_t *words = map_memory(bytes);
    uint64_t started = now_ms();
    for (unsigned long loop = 1; loop <= loops; loop++) {
        uint64_t loop_started = now_ms();
        scan_once(words, bytes / sizeof *words, loop);
        marker("scan loop index=%lu ms=%llu", loop, (unsigned long long)(now_ms() - loop_started));
    }
    marker("scan done mb=%lu loops=%lu ms=%llu", mb, loops,
           (unsigned long long)(now_ms() - started));
    return 0;
}
