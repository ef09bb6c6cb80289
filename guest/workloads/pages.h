/*
 * Pages as ordinary memory holds them, for the workloads that fill memory: five kinds, made and
 * verified. Kind and content of a page follow from (seed, page number, generation) alone, so
 * verifying recomputes and there is no second copy to swap as well.
 */
#ifndef RAMZSWAP_WORKLOADS_PAGES_H
#define RAMZSWAP_WORKLOADS_PAGES_H

#include "common.h"

/* A unit of ours: the guest's pages may be larger. */
#define PAGE 4096
#define KINDS 5

enum kind { TEXT, POINTERS, ZERO, SAME, RANDOM };

static const char *const kind_names[KINDS] = {"text", "pointers", "zero", "same", "random"};

/* About what a desktop's anonymous pages look like: some four fifths compress to half or less. */
static unsigned long weights[KINDS] = {35, 30, 15, 10, 10};
static unsigned long weight_total = 100;

static uint64_t seed = 1;

/* splitmix64: every state is a good start, so a page's stream can begin anywhere. */
static inline uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t stream_of(size_t page, uint8_t generation)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + page;

    state = next(&state) + generation;
    return next(&state);
}

static inline void put_word(uint8_t *page, size_t offset, uint64_t word)
{
    memcpy(page + offset, &word, sizeof word);
}

/* Frequent words first: as in any language, most of a text is made of few words. */
static const uint8_t word_masks[4] = {7, 7, 15, 63};
static const char *const vocabulary[64] = {
    "the ",      "of ",      "and ",      "to ",      "a ",       "in ",      "is ",      "that ",
    "it ",       "for ",     "on ",       "with ",    "as ",      "was ",     ", ",       ".\n",
    "page ",     "memory ",  "system ",   "window ",  "file ",    "value ",   "user ",    "time ",
    "<div ",     "class=\"", "\">",       "</div>\n", "return ",  "int ",     "(void)",   "{\n",
    "kernel ",   "driver ",  "between ",  "number ",  "because ", "through ", "without ", "another ",
    "/usr/lib/", "https://", "document ", "example ", "program ", "process ", "network ", "display ",
    "morning ",  "yellow ",  "quickly ",  "history ", "distance ", "question ", "garden ", "silver ",
    "1024 ",     "0x7f",     "2009-",     "3.14 ",    "compressed ", "swapping ", "virtual ", "length ",
};

static inline void make_text(uint8_t *page, uint64_t stream)
{
    size_t at = 0;
    uint64_t bits = 0;

    for (unsigned draw = 0; at < PAGE; draw++) {
        /* One 64-bit draw picks eight words: six bits for the word, two for the mask. */
        if (draw % 8 == 0)
            bits = next(&stream);
        const char *word = vocabulary[bits & word_masks[bits >> 6 & 3]];
        while (*word != '\0' && at < PAGE)
            page[at++] = (uint8_t)*word++;
        bits >>= 8;
    }
}

/* A heap of records: pointers into one arena, and about three words in ten empty. */
static inline void make_pointers(uint8_t *page, uint64_t stream)
{
    uint64_t base = UINT64_C(0x00007f0000000000) | (next(&stream) & UINT64_C(0xfffff00000));

    for (size_t at = 0; at < PAGE; at += 8) {
        uint64_t draw = next(&stream);
        put_word(page, at, draw % 10 < 3 ? 0 : base | (draw >> 32 & 0xffff0));
    }
}

/* Patterns of 1, 4 or 8 bytes. Never zero: a zero page is a kind of its own. */
static inline void make_same(uint8_t *page, uint64_t stream)
{
    unsigned width = next(&stream) % 3;
    uint64_t word = next(&stream) | 1;

    if (width == 0)
        word = (word & 0xff) * UINT64_C(0x0101010101010101);
    else if (width == 1)
        word = (word & 0xffffffff) * UINT64_C(0x0000000100000001);
    for (size_t at = 0; at < PAGE; at += 8)
        put_word(page, at, word);
}

static inline enum kind make_page(uint8_t *page, size_t number, uint8_t generation)
{
    uint64_t stream = stream_of(number, generation);
    unsigned long draw = (unsigned long)(next(&stream) % weight_total);
    enum kind kind = TEXT;

    while (draw >= weights[kind])
        draw -= weights[kind++];
    switch (kind) {
    case TEXT:
        make_text(page, stream);
        break;
    case POINTERS:
        make_pointers(page, stream);
        break;
    case ZERO:
        memset(page, 0, PAGE);
        break;
    case SAME:
        make_same(page, stream);
        break;
    case RANDOM:
        for (size_t at = 0; at < PAGE; at += 8)
            put_word(page, at, next(&stream));
        break;
    }
    return kind;
}

/* What the wrong page looks like tells a stale slot from a lost one and from a mixed-up one. */
static inline const char *looks_like(const uint8_t *got, size_t number, uint8_t generation)
{
    static uint8_t older[PAGE];

    if (generation > 0) {
        make_page(older, number, (uint8_t)(generation - 1));
        if (memcmp(got, older, PAGE) == 0)
            return "stale";
    }
    memset(older, 0, PAGE);
    return memcmp(got, older, PAGE) == 0 ? "zero" : "other";
}

/* Ends the program at a wrong byte, with a marker in the workload's name. */
static inline void verify_page(const char *workload, const uint8_t *got, size_t number,
                               uint8_t generation)
{
    static uint8_t expected[PAGE];
    enum kind kind = make_page(expected, number, generation);
    size_t at = 0;

    if (memcmp(got, expected, PAGE) == 0)
        return;
    /* Bounded, because the page may read differently the second time: that too would be a bug. */
    while (at < PAGE - 1 && got[at] == expected[at])
        at++;
    marker("%s FAILED page=%zu kind=%s offset=%zu expected=%02x got=%02x generation=%u looks=%s",
           workload, number, kind_names[kind], at, expected[at], got[at], generation,
           looks_like(got, number, generation));
    exit(1);
}

static inline void shuffle(uint32_t *order, size_t pages, uint64_t stream)
{
    for (size_t i = pages - 1; i > 0; i--) {
        size_t other = (size_t)(next(&stream) % (i + 1));
        uint32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

#endif
