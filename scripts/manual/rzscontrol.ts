/** rzscontrol(1): the prose around the options of control-options.ts. */

import {
  CONTROL_COMMANDS,
  CONTROL_OPTIONS,
  TOP_OPTIONS,
} from '../../src/control/control-options.ts';
import { FIGURES } from '../../src/control/figures.ts';
import { optionTerms } from './option-terms.ts';
import type { Page } from './roff.ts';
import { STATES } from './states.ts';

export const RZSCONTROL: Page = {
  name: 'rzscontrol',
  section: 1,
  summary: 'set up, show and change the compressed swap disks of ramzswapd',
  synopsis: [
    'rzscontrol [--control-path <path>] [--json]',
    'rzscontrol <device> [-b <path>] [-m <kb>] [-d <kb>] [-i] [-r] [-g <kb>] [-s] [-v]',
    'rzscontrol --add <name> | --remove <name> | --reload | --daemon | --schema',
    'rzscontrol top [--interval <seconds>] [--sort <key>] [--batch] [-n <frames>]',
  ],
  sections: [
    {
      title: 'Description',
      blocks: [
        '`rzscontrol` talks to a running `ramzswapd` over its control socket. Without a device it shows ' +
          'a table of all of them: state, front end, disk size, what is stored, its compressed size, the ' +
          'host memory it costs, the ratio of the two, and failed pages; where the daemon has a budget, ' +
          'guarantee and share too, and the budget beneath. With a device it gives orders, in the order reset, settings or init, grow, ' +
          'statistics, and ends at the first that is refused. Orders print nothing, or with `--json` the ' +
          'device as it is then.',
        'Settings (`-b`, `-m`, `-d`, `--pool_limit_kb`, `--guarantee_kb`) given without `--init` are ' +
          "remembered for the device's next init; those that may change on a running disk do, at once. A " +
          'device may be written as `/dev/ramzswap0`. A device that is called `top` is `/dev/top`.',
        'Output is plain text without colours, in columns that stay where they are, for `watch` and `awk`; ' +
          'with `--json` it is JSON with sizes in bytes.',
      ],
    },
    { title: 'Options', blocks: [{ terms: optionTerms(CONTROL_OPTIONS) }] },
    {
      title: 'Top',
      blocks: [
        `\`rzscontrol top\` shows ${CONTROL_COMMANDS.top}. A row is a device: pages read and written a ` +
          'second (those of the backing swap included), both as MB/s, the time within which 50% and 99% ' +
          'of read (`R50%`, `R99%`) and write (`W50%`, `W99%`) requests of the last interval were done, ' +
          'as upper ends of power-of-two microseconds, and failed pages since the disk was made. A ' +
          'narrow terminal shows fewer columns. While there is no daemon it waits for the next.',
        'Where the output is no terminal, one frame is printed as plain text after one interval; with ' +
          '`--json` one object a line.',
        { terms: optionTerms(TOP_OPTIONS) },
        'Keys:',
        {
          terms: [
            ['q', 'End. So do Ctrl-C and the signals INT, TERM and HUP.'],
            ['n, m, r, w, f', 'Sort by name, memory, reads, writes, failed pages.'],
            [
              'arrows, page up, page down, home, end',
              'Scroll where there are more devices than rows.',
            ],
          ],
        },
      ],
    },
    { title: 'States', blocks: STATES },
    {
      title: 'Statistics',
      blocks: [
        "`--stats` prints figures with the labels of compcache's `rzscontrol`, sizes in kB, and behind " +
          "them the pool limit and the part of the daemon's budget where there are such; with `--json` " +
          'all of these, sizes in bytes. Histograms count by power-of-two microseconds: entry i counts ' +
          'what took from 2^i to 2^(i+1).',
        {
          terms: Object.entries(FIGURES).map(([name, { help }]) => [
            name,
            `${help[0]!.toUpperCase()}${help.slice(1)}.`,
          ]),
        },
      ],
    },
    {
      title: 'Exit status',
      blocks: [
        {
          terms: [
            ['0', 'Done.'],
            ['1', 'Refused, or there is no daemon; the reason is on standard error.'],
            ['2', 'The command line is wrong.'],
          ],
        },
      ],
    },
    {
      title: 'Environment',
      blocks: [
        {
          terms: [
            [
              'RUNTIME_DIRECTORY',
              'The control socket is `control.sock` there, if `--control-path` does not say otherwise.',
            ],
            ['TERM', '`dumb`: `top` prints plain text.'],
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
              '/run/ramzswap/control.sock',
              "The control socket, which the daemon's user alone (and root) may use. A daemon of a single " +
                'device (`--socket-path`) has it beside the socket of that: `SOCKET.control`.',
            ],
          ],
        },
      ],
    },
    {
      title: 'Examples',
      blocks: [
        'The life of a disk:',
        {
          lines: [
            'rzscontrol ramzswap0 --disksize_kb=1048576 --init',
            'rzscontrol ramzswap0 --stats',
            'rzscontrol ramzswap0 --reset',
          ],
        },
        'A disk with a swap file behind 256 MiB of compressed memory, then half of that:',
        {
          lines: [
            'rzscontrol ramzswap1 -b /var/lib/ramzswap1.swap -m 262144 -i',
            'rzscontrol ramzswap1 -m 131072',
          ],
        },
        'Memory that each device uses, and what devices have done in ten seconds:',
        {
          lines: [
            "rzscontrol --json | jq -r '.[] | [.device, .statistics.mem_used_total] | @tsv'",
            'rzscontrol top --once --interval 10 --sort writes',
          ],
        },
        'Completion in bash:',
        { lines: ['source <(rzscontrol --completion bash)'] },
      ],
    },
    { title: 'See also', blocks: ['`ramzswapd`(8), `ramzswap-run`(1), `swapon`(8), `mkswap`(8)'] },
  ],
};
