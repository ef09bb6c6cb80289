/** Guests whose daemon is killed. */

import { describe } from 'vitest';
import { KILLING } from './kills.ts';
import { playAll } from './scenario.ts';

describe('guests whose daemon is killed', () => {
  playAll(KILLING);
});
