/*
 * documents MB MAX [SWITCH_MS_MAX]: how many documents can be open before switching between them
 * fails? After the thin-client tests of 2009, which opened documents until a machine gave up.
 *
 * 1. Opens a document: a process that fills MB MiB.
 * 2. Switches through all that are open: each reads and verifies all its pages, and writes to each.
 * 3. And again, until MAX are open, the kernel has killed one, or a switch takes longer than
 *    SWITCH_MS_MAX on average. Then count= is the number up to which all was well.
 *
 * Exit status: 0 (a killed document too), 1 for wrong data, 2 for usage, 3 for the environment.
 */
#include "pages.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* Two descriptors each, and 1024 is the usual limit. */
#define DOCUMENTS_MAX 500
#define PAGE_WORDS (PAGE / 8)

enum outcome { WELL, MAXIMUM, SLOW, KILLED, WRONG, UNABLE };

static const char *const reasons[] = {[MAXIMUM] = "max", [SLOW] = "slow", [KILLED] = "killed"};

/* A byte through `command` asks it to show itself, a byte through `answer` says that it did. */
struct document {
    pid_t pid; /* 0 when it has been waited for */
    int command;
    int answer;
};

static struct document documents[DOCUMENTS_MAX];
static size_t document_count;

/* Odd factors, so that no change of a single word leaves the sum as it was. */
static uint64_t factor_of(size_t word)
{
    return 2 * (uint64_t)word + 1;
}

/* Making the pages again would take a guest much longer than swapping does. */
static uint64_t sum_of(const uint64_t *page)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < PAGE_WORDS; i++)
        sum += page[i] * factor_of(i);
    return sum;
}

static void show_page(uint64_t *page, uint64_t *sum, size_t index, size_t number, size_t round)
{
    uint64_t got = sum_of(page);
    size_t at = number % PAGE_WORDS;
    volatile uint64_t *word = &page[at];
    uint64_t old = *word;

    if (got != *sum) {
        marker("documents FAILED index=%zu page=%zu round=%zu expected=%016llx got=%016llx", index,
               number, round, (unsigned long long)*sum, (unsigned long long)got);
        exit(1);
    }
    /* A page of one pattern stays so: it is written to, but what was there. */
    *word = old == page[at ^ 1] ? old : (uint64_t)round << 32 | number;
    *sum += (*word - old) * factor_of(at);
}

static void put_before_others(void)
{
    int file = open("/proc/self/oom_score_adj", O_WRONLY);

    if (file < 0 || write(file, "1000", 4) != 4)
        fail_system("/proc/self/oom_score_adj");
    close(file);
}

/* The document's process, until its parent closes the pipe or dies. */
static void be_document(size_t index, size_t bytes, int command, int answer)
{
    size_t pages = bytes / PAGE;
    uint8_t *memory = map_memory(bytes);
    uint64_t *sums = map_memory(pages * sizeof *sums);
    char byte = 0;

    put_before_others();
    for (size_t i = 0; i < pages; i++) {
        make_page(memory + i * PAGE, index * pages + i, 0);
        sums[i] = sum_of((uint64_t *)(memory + i * PAGE));
    }
    for (size_t round = 1; write(answer, &byte, 1) == 1 && read(command, &byte, 1) == 1; round++)
        for (size_t i = 0; i < pages; i++)
            show_page((uint64_t *)(memory + i * PAGE), &sums[i], index, i, round);
    exit(0);
}

static enum outcome ended(struct document *document, int status)
{
    document->pid = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return KILLED;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
        return UNABLE;
    /* Such as SIGBUS: a page could not be read back. */
    if (WIFSIGNALED(status))
        marker("documents FAILED index=%zu signal=%d", (size_t)(document - documents),
               WTERMSIG(status));
    return WRONG;
}

static enum outcome await_answer(struct document *document)
{
    char byte;
    int status;

    if (read(document->answer, &byte, 1) == 1)
        return WELL;
    if (waitpid(document->pid, &status, 0) != document->pid)
        fail_system("waitpid");
    return ended(document, status);
}

static enum outcome open_document(size_t bytes)
{
    struct document *document = &documents[document_count];
    int command[2];
    int answer[2];

    if (pipe(command) != 0 || pipe(answer) != 0)
        fail_system("pipe");
    document->pid = fork();
    if (document->pid < 0)
        fail_system("fork");
    if (document->pid == 0) {
        /* With the others' pipes open here, they would not see that the parent is gone. */
        for (size_t i = 0; i < document_count; i++) {
            close(documents[i].command);
            close(documents[i].answer);
        }
        close(command[1]);
        close(answer[0]);
        be_document(document_count, bytes, command[0], answer[1]);
    }
    close(command[0]);
    close(answer[1]);
    document->command = command[1];
    document->answer = answer[0];
    document_count++;
    return await_answer(document);
}

static enum outcome switch_through(unsigned long ms_max)
{
    uint64_t started = now_ms();
    enum outcome outcome = WELL;
    int status;

    for (size_t i = 0; i < document_count && outcome == WELL; i++) {
        /* To one that was killed this fails; the answer's end says so as well. */
        if (write(documents[i].command, "", 1) == 1 || errno == EPIPE)
            outcome = await_answer(&documents[i]);
        else
            fail_system("write");
        if (outcome == WELL && ms_max > 0 && now_ms() - started > ms_max * document_count)
            outcome = SLOW;
    }
    /* One may have been killed for another, after its turn. */
    for (size_t i = 0; i < document_count && outcome == WELL; i++)
        if (waitpid(documents[i].pid, &status, WNOHANG) > 0)
            outcome = ended(&documents[i], status);
    return outcome;
}

static enum outcome open_and_switch(size_t bytes, unsigned long ms_max)
{
    uint64_t started = now_ms();
    enum outcome outcome = open_document(bytes);
    uint64_t opened = now_ms();

    if (outcome == WELL)
        outcome = switch_through(ms_max);
    if (outcome == WELL)
        marker("documents open index=%zu open_ms=%llu switch_ms=%llu used_kb=%lu", document_count,
               (unsigned long long)(opened - started), (unsigned long long)(now_ms() - opened),
               swap_used_kb());
    return outcome;
}

static void close_documents(void)
{
    for (size_t i = 0; i < document_count; i++)
        if (documents[i].pid != 0 && kill(documents[i].pid, SIGKILL) == 0)
            waitpid(documents[i].pid, NULL, 0);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: documents MB MAX [SWITCH_MS_MAX]\n");
        return 2;
    }
    unsigned long mb = parse_number("MB", argv[1], 1, (SIZE_MAX >> 20) - 1);
    unsigned long max = parse_number("MAX", argv[2], 1, DOCUMENTS_MAX);
    unsigned long ms_max = argc == 4 ? parse_number("SWITCH_MS_MAX", argv[3], 1, 1000000) : 0;
    enum outcome outcome = WELL;
    uint64_t started = now_ms();
    unsigned long count = 0;

    signal(SIGPIPE, SIG_IGN);
    marker("documents start mb=%lu max=%lu switch_ms_max=%lu", mb, max, ms_max);
    while (outcome == WELL) {
        outcome = count == max ? MAXIMUM : open_and_switch((size_t)mb << 20, ms_max);
        if (outcome == WELL)
            count++;
    }
    close_documents();
    if (outcome == WRONG || outcome == UNABLE)
        return outcome == WRONG ? 1 : 3;
    marker("documents done count=%lu reason=%s ms=%llu", count, reasons[outcome],
           (unsigned long long)(now_ms() - started));
    return 0;
}
