/*
 * churn MB ROUNDS [SEED]: memory that comes and goes, to see what the swap device still holds of
 * what the guest has freed.
 *
 * 1. Fills MB MiB in pieces of 64 KiB to 4 MiB, small ones as likely as large ones.
 * 2. ROUNDS rounds: frees about a quarter, as whole pieces and as parts of pieces, fills up to
 *    MB MiB again, and verifies one kept page in eight.
 * 3. Frees three quarters, and leaves the host two seconds to look.
 *
 * Exit status: 0, 1 for a wrong byte, 2 for usage, 3 for the environment.
 */
#include "pages.h"

#define PIECE_BYTES_MIN ((size_t)64 << 10)
#define PIECE_DOUBLINGS 6
/* One freed piece in so many is freed only in part. */
#define PART_EVERY 4
#define VERIFY_EVERY 8
#define LOOK_SECONDS 2
/* After each round, for the host to look at the same moment. */
#define LOOK_MICROS 200000

/*
 * A mapped range. A hole was given back with MADV_DONTNEED, as malloc does inside an arena: still
 * mapped, without memory, and the first to be filled again.
 */
struct piece {
    uint8_t *memory;
    size_t bytes;
    size_t first_page; /* pages.h's number of the first page */
    int hole;
};

static struct piece *pieces;
static size_t piece_count;
static size_t filled_bytes;
static size_t next_page;
static size_t page_bytes;
/* Not pages.h's seed: choices and contents are to be independent. */
static uint64_t choices;

static size_t choose(size_t count)
{
    return (size_t)(next(&choices) % count);
}

/* Log-uniform, nearly: any power of two as likely as another, and any size up to the next. */
static size_t choose_piece_bytes(void)
{
    size_t bytes = PIECE_BYTES_MIN << choose(PIECE_DOUBLINGS);

    bytes += choose(bytes);
    return bytes - bytes % page_bytes;
}

static void add_piece(uint8_t *memory, size_t bytes, size_t first_page, int hole)
{
    if (bytes > 0)
        pieces[piece_count++] = (struct piece){memory, bytes, first_page, hole};
}

static void fill(struct piece *piece)
{
    piece->first_page = next_page;
    piece->hole = 0;
    for (size_t at = 0; at < piece->bytes; at += PAGE)
        make_page(piece->memory + at, next_page++, 0);
    filled_bytes += piece->bytes;
}

static void fill_up(size_t target)
{
    for (size_t i = 0; i < piece_count; i++)
        if (pieces[i].hole)
            fill(&pieces[i]);
    while (filled_bytes < target) {
        size_t bytes = choose_piece_bytes();

        if (bytes > target - filled_bytes)
            bytes = target - filled_bytes;
        add_piece(map_memory(bytes), bytes, 0, 0);
        fill(&pieces[piece_count - 1]);
    }
}

/* What is left before and after the part become pieces of their own. */
static void free_part(struct piece piece)
{
    size_t pages = piece.bytes / page_bytes;
    size_t first = choose(pages);
    size_t from = first * page_bytes;
    size_t to = from + (1 + choose(pages - first)) * page_bytes;
    int hole = choose(2) == 0;

    if (hole ? madvise(piece.memory + from, to - from, MADV_DONTNEED) != 0
             : munmap(piece.memory + from, to - from) != 0)
        fail_system(hole ? "madvise" : "munmap");
    add_piece(piece.memory, from, piece.first_page, 0);
    if (hole)
        add_piece(piece.memory + from, to - from, 0, 1);
    add_piece(piece.memory + to, piece.bytes - to, piece.first_page + to / PAGE, 0);
    filled_bytes -= to - from;
}

static void free_down(size_t target)
{
    while (filled_bytes > target) {
        size_t index = choose(piece_count);
        struct piece piece = pieces[index];

        if (piece.hole)
            continue;
        pieces[index] = pieces[--piece_count];
        if (choose(PART_EVERY) == 0) {
            free_part(piece);
        } else {
            if (munmap(piece.memory, piece.bytes) != 0)
                fail_system("munmap");
            filled_bytes -= piece.bytes;
        }
    }
}

static size_t verify_some(void)
{
    size_t verified = 0;

    for (size_t i = 0; i < piece_count; i++)
        for (size_t at = 0; at < pieces[i].bytes; at += PAGE)
            if (choose(VERIFY_EVERY) == 0) {
                verify_page("churn", pieces[i].memory + at, pieces[i].first_page + at / PAGE, 0);
                verified++;
            }
    return verified;
}

static void run(size_t target, unsigned long rounds)
{
    uint64_t started = now_ms();

    fill_up(target);
    marker("churn filled pieces=%zu used_kb=%lu ms=%llu", piece_count, swap_used_kb(),
           (unsigned long long)(now_ms() - started));
    for (unsigned long round = 1; round <= rounds; round++) {
        uint64_t round_started = now_ms();

        free_down(target - target / 4);
        fill_up(target);
        size_t verified = verify_some();
        marker("churn round index=%lu mb=%zu used_kb=%lu pieces=%zu verified=%zu ms=%llu", round,
               filled_bytes >> 20, swap_used_kb(), piece_count, verified,
               (unsigned long long)(now_ms() - round_started));
        usleep(LOOK_MICROS);
    }
    marker("churn done rounds=%lu ms=%llu", rounds, (unsigned long long)(now_ms() - started));
    free_down(target / 4);
    marker("churn freed mb=%zu used_kb=%lu", filled_bytes >> 20, swap_used_kb());
    sleep(LOOK_SECONDS);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: churn MB ROUNDS [SEED]\n");
        return 2;
    }
    unsigned long mb = parse_number("MB", argv[1], 1, (SIZE_MAX >> 20) - 1);
    unsigned long rounds = parse_number("ROUNDS", argv[2], 0, 1000000);

    seed = argc == 4 ? parse_number("SEED", argv[3], 0, UINT32_MAX) : 1;
    choices = ~seed;
    /* From Linux 6.12 on a zero page has a slot but is never written: figures would not compare. */
    weight_total -= weights[ZERO];
    weights[ZERO] = 0;
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    /* Pieces are at least a page, and filled ones and holes together are at most MB MiB. */
    pieces = map_memory(((size_t)mb << 20) / page_bytes * sizeof *pieces);
    marker("churn start mb=%lu rounds=%lu seed=%llu", mb, rounds, (unsigned long long)seed);
    run((size_t)mb << 20, rounds);
    return 0;
}
