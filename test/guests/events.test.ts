/** Guests to which something happens while they swap; the one whose daemon is killed is the longest. */

import { describe } from 'vitest';
import { EVENTS } from './events.ts';
import { KILLING } from './kills.ts';
import { playAll } from './scenario.ts';

describe('guests to which something happens', () => {
  playAll([...KILLING, ...EVENTS]);
});
