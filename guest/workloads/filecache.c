/*
 * filecache FILE MB PASSES: a large file and hardly any memory of one's own, the case in which swap
 * has nothing to give. After iozone; PASSES times write, rewrite, read, reread, random read and
 * random write, in records of 64 KiB.
 *
 * FILE must not exist yet, and is gone at the end; or it is a block device of at least MB MiB, not
 * in use, whose content is lost. A word of each record says which record it is and how often it
 * was written. Exit status: 0, 1 for a wrong word, 2 for usage, 3 for the environment.
 */
#define _FILE_OFFSET_BITS 64

#include "pages.h"

#include <fcntl.h>
#include <sys/stat.h>

#define RECORD_BYTES ((size_t)64 << 10)

static int file;
static int is_device;
static uint32_t record_count;
static uint8_t record[RECORD_BYTES];
static uint32_t *in_order;
static uint32_t *at_random;
/* How often each record was written; all were equally often. */
static uint32_t version;

static uint64_t word_value(uint32_t index)
{
    return (uint64_t)version << 32 | index;
}

/* Each time in another page of the records. */
static uint8_t *version_word(void)
{
    return record + version % (RECORD_BYTES / PAGE) * PAGE;
}

static off_t offset_of(uint32_t index)
{
    return (off_t)index * (off_t)RECORD_BYTES;
}

static void write_records(const uint32_t *order)
{
    version++;
    for (uint32_t i = 0; i < record_count; i++) {
        uint64_t word = word_value(order[i]);

        memcpy(version_word(), &word, sizeof word);
        for (size_t done = 0; done < RECORD_BYTES;) {
            ssize_t count = pwrite(file, record + done, RECORD_BYTES - done,
                                   offset_of(order[i]) + (off_t)done);
            if (count < 0)
                fail_system("write");
            done += (size_t)count;
        }
    }
    if (fsync(file) != 0)
        fail_system("fsync");
}

static void read_records(const uint32_t *order)
{
    for (uint32_t i = 0; i < record_count; i++) {
        uint64_t expected = word_value(order[i]);
        uint64_t got;

        for (size_t done = 0; done < RECORD_BYTES;) {
            ssize_t count = pread(file, record + done, RECORD_BYTES - done,
                                  offset_of(order[i]) + (off_t)done);
            if (count <= 0) {
                errno = count == 0 ? EIO : errno;
                fail_system("read");
            }
            done += (size_t)count;
        }
        memcpy(&got, version_word(), sizeof got);
        if (got != expected) {
            marker("filecache FAILED record=%u expected=%016llx got=%016llx", order[i],
                   (unsigned long long)expected, (unsigned long long)got);
            exit(1);
        }
    }
}

static void pass(const char *name, unsigned long round, void (*work)(const uint32_t *),
                 const uint32_t *order)
{
    uint64_t started = now_ms();
    uint64_t ms;

    work(order);
    ms = now_ms() - started;
    marker("filecache pass name=%s index=%lu ms=%llu mb_per_s=%.1f", name, round,
           (unsigned long long)ms,
           (double)record_count * (RECORD_BYTES >> 10) / 1024 * 1000 / (ms > 0 ? (double)ms : 1));
}

static void run(unsigned long rounds)
{
    uint64_t started = now_ms();

    for (unsigned long round = 1; round <= rounds; round++) {
        /* The first pass is to write to new places, in each round. */
        if (!is_device && ftruncate(file, 0) != 0)
            fail_system("ftruncate");
        shuffle(at_random, record_count, round);
        pass("write", round, write_records, in_order);
        pass("rewrite", round, write_records, in_order);
        pass("read", round, read_records, in_order);
        pass("reread", round, read_records, in_order);
        pass("random-read", round, read_records, at_random);
        pass("random-write", round, write_records, at_random);
    }
    /* What the last pass wrote has not been looked at yet. */
    read_records(in_order);
    marker("filecache done used_kb=%lu ms=%llu", swap_used_kb(),
           (unsigned long long)(now_ms() - started));
}

static void open_file(const char *path)
{
    struct stat status;

    is_device = stat(path, &status) == 0 && S_ISBLK(status.st_mode);
    /* O_EXCL refuses a file that exists, and a device that is mounted or swapped to. */
    file = open(path, is_device ? O_RDWR | O_EXCL : O_RDWR | O_CREAT | O_EXCL, 0600);
    /* Without a name it disappears with this process, however that ends. */
    if (file < 0 || (!is_device && unlink(path) != 0))
        fail_system(path);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: filecache FILE MB PASSES\n");
        return 2;
    }
    unsigned long mb = parse_number("MB", argv[2], 1, 1 << 20);
    unsigned long rounds = parse_number("PASSES", argv[3], 1, 1000000);

    record_count = (uint32_t)(((uint64_t)mb << 20) / RECORD_BYTES);
    in_order = map_memory(record_count * sizeof *in_order);
    at_random = map_memory(record_count * sizeof *at_random);
    for (uint32_t i = 0; i < record_count; i++)
        in_order[i] = at_random[i] = i;
    for (size_t at = 0; at < RECORD_BYTES; at += PAGE)
        make_page(record + at, at / PAGE, 0);
    open_file(argv[1]);
    marker("filecache start mb=%lu passes=%lu device=%d", mb, rounds, is_device);
    run(rounds);
    return 0;
}
