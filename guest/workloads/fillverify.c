/*
 * fillverify MB [SEED] [LOOPS] [--kinds=KIND[:WEIGHT],...]: does the swap give back what it was given?
 *
 * 1. Fills MB MiB with pages of mixed kinds (pages.h).
 * 2. LOOPS rounds: visits all pages in a random order, compares every byte, and rewrites about a
 *    third of them with the next generation.
 * 3. A last pass compares everything.
 *
 * Exit status: 0, 1 for a wrong byte, 2 for usage, 3 for the environment.
 */
#include "pages.h"

static void parse_kinds(char *list)
{
    weight_total = 0;
    memset(weights, 0, sizeof weights);
    for (char *item = strtok(list, ","); item != NULL; item = strtok(NULL, ",")) {
        char *colon = strchr(item, ':');
        int kind = 0;

        if (colon != NULL)
            *colon = '\0';
        while (kind < KINDS && strcmp(item, kind_names[kind]) != 0)
            kind++;
        if (kind == KINDS) {
            fprintf(stderr, "--kinds: expected text, pointers, zero, same or random, got %s\n", item);
            exit(2);
        }
        weights[kind] = colon == NULL ? 1 : parse_number("--kinds", colon + 1, 1, 1000);
        weight_total += weights[kind];
    }
    if (weight_total == 0) {
        fprintf(stderr, "--kinds: expected at least one kind\n");
        exit(2);
    }
}

static void run(unsigned long mb, unsigned long loops)
{
    size_t pages = ((size_t)mb << 20) / PAGE;
    uint8_t *memory = map_memory(pages * PAGE);
    uint8_t *generations = map_memory(pages);
    uint32_t *order = map_memory(pages * sizeof *order);
    uint64_t started = now_ms();

    for (size_t i = 0; i < pages; i++) {
        make_page(memory + i * PAGE, i, 0);
        order[i] = (uint32_t)i;
    }
    marker("fillverify filled pages=%zu ms=%llu", pages, (unsigned long long)(now_ms() - started));

    for (unsigned long loop = 1; loop <= loops; loop++) {
        uint64_t stream = seed ^ (uint64_t)loop << 32;
        uint64_t loop_started = now_ms();
        size_t rewritten = 0;

        shuffle(order, pages, next(&stream));
        for (size_t i = 0; i < pages; i++) {
            size_t number = order[i];
            uint8_t *page = memory + number * PAGE;

            verify_page("fillverify", page, number, generations[number]);
            if (next(&stream) % 3 == 0) {
                make_page(page, number, ++generations[number]);
                rewritten++;
            }
        }
        marker("fillverify round index=%lu rewritten=%zu ms=%llu", loop, rewritten,
               (unsigned long long)(now_ms() - loop_started));
    }

    for (size_t i = 0; i < pages; i++)
        verify_page("fillverify", memory + i * PAGE, i, generations[i]);
    marker("fillverify verified pages=%zu ms=%llu", pages,
           (unsigned long long)(now_ms() - started));
}

int main(int argc, char **argv)
{
    const char *numbers[3] = {NULL, "1", "1"};
    int count = 0;

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--kinds=", 8) == 0)
            parse_kinds(argv[i] + 8);
        else if (count < 3 && argv[i][0] != '-')
            numbers[count++] = argv[i];
        else
            count = 4;
    }
    if (count < 1 || count > 3) {
        fprintf(stderr, "usage: fillverify MB [SEED] [LOOPS] [--kinds=KIND[:WEIGHT],...]\n");
        return 2;
    }
    unsigned long mb = parse_number("MB", numbers[0], 1, (SIZE_MAX >> 20) - 1);
    unsigned long loops = parse_number("LOOPS", numbers[2], 0, 1000000);

    seed = parse_number("SEED", numbers[1], 0, UINT32_MAX);
    marker("fillverify start mb=%lu seed=%llu loops=%lu", mb, (unsigned long long)seed, loops);
    run(mb, loops);
    return 0;
}
