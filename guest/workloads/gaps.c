/*
 * gaps MB SECONDS: how long does a guest that swaps wait, at the longest?
 *
 * Fills MB MiB, then twice, for SECONDS each, touches pages in a random order, and tells of the
 * longest time that one touch took (CLOCK_MONOTONIC). The first round is what the machine does by
 * itself; whoever sees the second one begin may do something to the disk. A page that is not what it
 * was ends it.
 *
 * Exit status: 0, 1 for a wrong page, 2 for usage, 3 for the environment.
 */
#include "pages.h"

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Every page is verified whole: the touch is the first byte, what follows costs no wait. */
static void touch_for(uint8_t *memory, size_t pages, uint64_t us, const char *name)
{
    uint64_t stream = seed;
    uint64_t started = now_us();
    uint64_t longest = 0;
    size_t touches = 0;

    marker("gaps %s start", name);
    while (now_us() - started < us) {
        size_t number = (size_t)(next(&stream) % pages);
        volatile uint8_t *page = memory + number * PAGE;
        uint64_t before = now_us();

        /* Dirtied, so that it has to be written again before it goes. */
        page[0] = page[0];
        uint64_t took = now_us() - before;

        if (took > longest)
            longest = took;
        verify_page("gaps", memory + number * PAGE, number, 0);
        touches++;
    }
    marker("gaps %s longest_us=%llu touches=%zu", name, (unsigned long long)longest, touches);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: gaps MB SECONDS\n");
        return 2;
    }
    size_t pages = ((size_t)parse_number("MB", argv[1], 1, (SIZE_MAX >> 20) - 1) << 20) / PAGE;
    uint64_t us = (uint64_t)parse_number("SECONDS", argv[2], 1, 3600) * 1000000;
    uint8_t *memory = map_memory(pages * PAGE);

    for (size_t i = 0; i < pages; i++)
        make_page(memory + i * PAGE, i, 0);
    touch_for(memory, pages, us, "alone");
    touch_for(memory, pages, us, "upgraded");
    return 0;
}
