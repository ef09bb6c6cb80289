/** The fuzz targets by name, for scripts/fuzz.ts and fuzz.test.ts. */

import type { FuzzTarget } from './budget.ts';
import { fuzzCodec } from './codec.ts';
import { fuzzControl } from './control.ts';
import { fuzzHeaders } from './headers.ts';
import { fuzzRings } from './rings.ts';
import { fuzzSessions } from './sessions.ts';
import { fuzzVhostUser } from './vhost-user.ts';

export const FUZZ_TARGETS: Readonly<Record<string, FuzzTarget>> = {
  codec: fuzzCodec,
  rings: fuzzRings,
  headers: fuzzHeaders,
  'vhost-user': fuzzVhostUser,
  sessions: fuzzSessions,
  control: fuzzControl,
};
