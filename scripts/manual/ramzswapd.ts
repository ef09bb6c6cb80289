/** ramzswapd(8): the prose around the options of options.ts. */

import { FILE_OPTIONS } from '../../src/control/config-file.ts';
import { DAEMON_OPTIONS, DEVICE_OPTIONS } from '../../src/control/options.ts';
import { optionTerms } from './option-terms.ts';
import type { Page } from './roff.ts';
import { STATES } from './states.ts';

export const RAMZSWAPD: Page = {
  name: 'ramzswapd',
  section: 8,
  summary: 'compressed swap disks in host memory for QEMU guests',
  synopsis: [
    'ramzswapd --socket-path <path> | --fd <number> [<options>]',
    'ramzswapd --socket-dir <dir> [--num-devices <n>] [<options>]',
    'ramzswapd --config <path> [<options>]',
  ],
  sections: [
    {
      title: 'Description',
      blocks: [
        '`ramzswapd` is a vhost-user-blk back end: QEMU connects to its socket, and the guest sees an ' +
          'ordinary virtio disk with a swap header on it. Every page that the guest swaps out is ' +
          'compressed with LZO and kept in memory of the host; what the guest frees comes back as ' +
          'discards, and the memory goes back to the host. Pages of one repeated byte cost nothing.',
        'With `--socket-path` or `--fd` there is one device, which is a disk at once. With `--socket-dir` ' +
          'or a configuration file there are many, each with a socket `NAME.sock`; those that the file ' +
          'names are disks at once, others when `rzscontrol`(1) initialises them.',
        "The guest's memory must be shared with the daemon:",
        {
          lines: [
            'qemu-system-x86_64 -m 1G -machine q35,memory-backend=mem \\',
            '  -object memory-backend-memfd,id=mem,size=1G,share=on \\',
            '  -chardev socket,id=ramzswap0,path=/tmp/ramzswap0.sock,reconnect=1 \\',
            '  -device vhost-user-blk-pci,chardev=ramzswap0 ...',
          ],
        },
        'It stays in the foreground. A socket appears when its device is ready; a stale one is replaced, ' +
          'a live one refused. No privilege is needed.',
      ],
    },
    {
      title: 'Options',
      blocks: [
        'Sizes take `K`, `M`, `G`, `T`: powers of 1024.',
        { heading: 'Of the daemon' },
        { terms: optionTerms(DAEMON_OPTIONS) },
        { heading: 'Of devices' },
        'They hold for all devices that nothing else is said of.',
        { terms: optionTerms(DEVICE_OPTIONS) },
        { heading: 'Of the program' },
        {
          terms: [
            ['-V, --version', 'Print the version.'],
            ['-h, --help', 'Print these options.'],
          ],
        },
      ],
    },
    {
      title: 'Configuration file',
      blocks: [
        'YAML. Settings are options by their names: at the top those of the daemon that are not of one ' +
          `device or one start (${FILE_OPTIONS.map((name) => `\`${name}\``).join(', ')}); ` +
          'under `defaults` those of all ' +
          'devices; under `devices` each device by its name, with what holds for it alone. A device is a ' +
          'disk from the start unless it says `init: false`. What is said of one device goes before what ' +
          'is said of all, an option of the command line before the file. Errors name file, line and ' +
          'setting.',
        {
          lines: [
            'socket-dir: /run/ramzswap',
            'budget: 8G',
            'defaults:',
            '  pool-limit: 1G',
            'devices:',
            '  web1: { disksize: 2G, guarantee: 256M }',
            '  web2:',
          ],
        },
        'Read again (SIGHUP, or `rzscontrol --reload`), devices come and go, settings that may change do, ' +
          'and what takes a restart or a reset is refused and said.',
      ],
    },
    { title: 'States', blocks: STATES },
    {
      title: 'When its memory is released',
      blocks: [
        'The memory of a page goes back to the host when the guest discards it or writes something ' +
          'smaller, that of all pages with `rzscontrol DEVICE --reset`. A store in the process goes with ' +
          'it. One in files (`--store-dir`) or with the service manager (`--fdstore`) goes when the daemon ' +
          'is told to stop and nobody can come back for the pages: when the front end that was served ' +
          'last is a process that has ended, when nobody was served, or after a reset. Else it is kept, ' +
          'and so it is when the daemon is killed.',
      ],
    },
    {
      title: 'Signals',
      blocks: [
        {
          terms: [
            ['SIGTERM, SIGINT', 'End, with status 0, within 200 ms.'],
            [
              'SIGHUP',
              'Read the configuration file (`--config`) again; without one, only a line in the log.',
            ],
            ['SIGUSR1', 'Nothing: it does not open the debugger of Node.js.'],
          ],
        },
      ],
    },
    {
      title: 'Exit status',
      blocks: [
        {
          terms: [
            ['0', 'Told to end, or the connection of `--fd` has ended.'],
            ['1', 'What was asked for cannot be; the reason is on standard error.'],
            ['2', 'The command line or the configuration file is wrong.'],
          ],
        },
      ],
    },
    {
      title: 'Environment',
      blocks: [
        {
          terms: [
            ['RUNTIME_DIRECTORY', 'Where the control socket of many devices is.'],
            [
              'LISTEN_FDS, LISTEN_FDNAMES',
              'Unix stream sockets that the service manager has opened: one by the name of a device is ' +
                "that device's, one by the name `control` is the control socket.",
            ],
            ['NOTIFY_SOCKET', 'Where the service manager is told how far the daemon is.'],
          ],
        },
      ],
    },
    {
      title: 'Files',
      blocks: [
        {
          terms: [
            [
              '/etc/ramzswap/ramzswapd.yaml',
              "The configuration file that the service's unit names.",
            ],
            ['/run/ramzswap/control.sock', 'The control socket, for the user of the daemon alone.'],
            ['<dir>/<name>.sock', 'Where the front end of a device connects.'],
            ['<dir>/<name>.table, <dir>/<name>.arena', 'The store of a device (`--store-dir`).'],
          ],
        },
      ],
    },
    {
      title: 'Examples',
      blocks: [
        'One disk of 1 GiB:',
        { lines: ['ramzswapd --socket-path /tmp/ramzswap0.sock --disksize 1G'] },
        'One with a swap file behind 512 MiB of compressed memory:',
        {
          lines: [
            'fallocate -l 4G /var/lib/ramzswap0.swap',
            'chmod 600 /var/lib/ramzswap0.swap && mkswap /var/lib/ramzswap0.swap',
            'ramzswapd --socket-path /tmp/ramzswap0.sock --backing-swap /var/lib/ramzswap0.swap --memlimit 512M',
          ],
        },
        'In the guest:',
        {
          lines: [
            'echo 0 > /sys/block/vdb/queue/rotational',
            'swapon --discard --priority 100 /dev/vdb',
          ],
        },
      ],
    },
    {
      title: 'See also',
      blocks: ['`rzscontrol`(1), `ramzswap-run`(1), `swapon`(8), `mkswap`(8), `qemu`(1)'],
    },
  ],
};
