/** ramzswap-run(1). Its few options are bin/ramzswap-run.ts's own; a test compares the two. */

import type { Page } from './roff.ts';

export const RAMZSWAP_RUN: Page = {
  name: 'ramzswap-run',
  section: 1,
  summary: 'run QEMU with a compressed swap disk',
  synopsis: ['ramzswap-run [--transport <kind>] [<options-of-ramzswapd>] -- <qemu> [<arguments>]'],
  sections: [
    {
      title: 'Description',
      blocks: [
        '`ramzswap-run` starts a `ramzswapd`(8) of its own, adds to the QEMU command line what that ' +
          'lacks for the disk, and runs it. The disk lasts as long as QEMU does; when ' +
          '`ramzswap-run` is killed, both are gone, and so are the pages.',
        'What is added stands behind the arguments given, which stay as they are: guest memory that the ' +
          'daemon can map, of the size of `-m`, unless the arguments have memory of their own, which must ' +
          'then be shared; and the disk, whose serial is the name of the device (`ramzswap0`).',
        'Signals INT, TERM and HUP are passed on to QEMU.',
      ],
    },
    {
      title: 'Options',
      blocks: [
        {
          terms: [
            [
              '--transport <kind>',
              "How the disk is attached: `pci` or `mmio`. Default: `pci`, or `mmio` if QEMU's machine " +
                'has no PCI.',
            ],
            ['-V, --version', 'Print the version.'],
            ['-h, --help', 'Print these options.'],
          ],
        },
        'Other options before `--` go to `ramzswapd`(8) as they are: `--disksize`, `--pool-limit`, ' +
          '`--backing-swap`, `--memlimit`, `--queue-threads`, `--name`, `--guest-page-size` and so on. ' +
          'Refused are those that this program decides: `--socket-path`, `--socket-group`, `--fd` (the ' +
          'socket is in a private folder), `--socket-dir`, `--num-devices`, `--threads`, `--config` (there is ' +
          "one disk), `--guest-ram` (it is QEMU's `-m`), `--store-dir`, `--fdstore` " +
          '(the disk ends with QEMU), `--take-over` (it is a new one) and `--print-capabilities`. ' +
          '`--log-level` is `warn` if nothing is said.',
      ],
    },
    {
      title: 'Exit status',
      blocks: [
        "QEMU's; 128 + n if signal n ended it. Else:",
        {
          terms: [
            ['1', 'There is no disk; the reason is on standard error.'],
            ['2', 'The command line is wrong.'],
          ],
        },
      ],
    },
    {
      title: 'Files',
      blocks: [
        'The sockets are in a private folder below `$TMPDIR` or `/tmp`, which is removed at the end.',
      ],
    },
    {
      title: 'Examples',
      blocks: [
        {
          lines: [
            'ramzswap-run --disksize 1G -- qemu-system-x86_64 -m 1G \\',
            '  -drive file=guest.qcow2,if=virtio -display none -serial stdio',
          ],
        },
        'In the guest, where the disk is `/dev/vdb`:',
        {
          lines: [
            'echo 0 > /sys/block/vdb/queue/rotational',
            'swapon --discard --priority 100 /dev/vdb',
          ],
        },
      ],
    },
    { title: 'See also', blocks: ['`ramzswapd`(8), `rzscontrol`(1), `qemu`(1), `swapon`(8)'] },
  ],
};
