/*
 * swapon [-d[once|pages]] [-p PRIORITY] DEVICE: as util-linux's, whose libraries would not fit here.
 * Debian's busybox is built without priorities, and two swaps are only used in turn when theirs are
 * equal.
 * Exit status: 0, 2 for usage, 3 for the environment.
 */
#include "common.h"

#include <sys/swap.h>

/* As in the kernel's include/linux/swap.h; the C library stops at SWAP_FLAG_DISCARD. */
#define FLAG_DISCARD 0x10000
#define FLAG_DISCARD_ONCE 0x20000
#define FLAG_DISCARD_PAGES 0x40000

static int usage(void)
{
    fprintf(stderr, "usage: swapon [-d[once|pages]] [-p PRIORITY] DEVICE\n");
    return 2;
}

int main(int argc, char **argv)
{
    int flags = 0;
    int option;

    while ((option = getopt(argc, argv, "d::p:")) != -1) {
        if (option == 'p')
            flags |= SWAP_FLAG_PREFER | (int)parse_number("-p", optarg, 0, SWAP_FLAG_PRIO_MASK);
        else if (option == 'd' && optarg == NULL)
            flags |= FLAG_DISCARD;
        else if (option == 'd' && strcmp(optarg, "once") == 0)
            flags |= FLAG_DISCARD | FLAG_DISCARD_ONCE;
        else if (option == 'd' && strcmp(optarg, "pages") == 0)
            flags |= FLAG_DISCARD | FLAG_DISCARD_PAGES;
        else
            return usage();
    }
    if (optind + 1 != argc)
        return usage();
    if (swapon(argv[optind], flags) != 0) {
        fprintf(stderr, "swapon: %s: %s\n", argv[optind], strerror(errno));
        return 3;
    }
    return 0;
}
