/** Guests to which something happens while they swap. */

import { describe } from 'vitest';
import { EVENTS } from './events.ts';
import { playAll } from './scenario.ts';

describe('guests to which something happens', () => {
  playAll(EVENTS);
});
