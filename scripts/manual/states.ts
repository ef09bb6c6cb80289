/** What both manual pages say of a device's life. */

import type { Block } from './roff.ts';

export const STATES: readonly Block[] = [
  {
    terms: [
      [
        'uninitialised',
        'No memory, and a capacity of 0. A guest may be connected already; settings are remembered for ' +
          'the init to come. Statistics are an error.',
      ],
      [
        'initialised',
        'A disk, with a swap header on it: `swapon` needs no `mkswap`. A guest that is connected sees ' +
          'the capacity change. A second init is refused, and so are settings that are not for a running ' +
          'disk: those that may change are `memlimit`, `pool-limit`, `guarantee` and, to grow, `disksize`.',
      ],
      [
        'active',
        'The same, and a front end has its queues running. A reset and a removal are refused until it ' +
          'stops them, which guests do when they shut down or unplug the disk.',
      ],
    ],
  },
];
