/** Every manual page that there is. */

import { RAMZSWAP_RUN } from './ramzswap-run.ts';
import { RAMZSWAPD } from './ramzswapd.ts';
import type { Page } from './roff.ts';
import { RZSCONTROL } from './rzscontrol.ts';

export const PAGES: readonly Page[] = [RZSCONTROL, RAMZSWAP_RUN, RAMZSWAPD];
