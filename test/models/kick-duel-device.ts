/**
 * The device's side of kick-duel.ts: src/virtio/virtqueue.ts as the reactor uses it. Pop, push,
 * publish; nothing left: enable kicks, look again, wait for a kick and for nothing else.
 */

import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { DescriptorChain } from '../../src/virtio/chain.ts';
import { POP_BROKEN, POP_CHAIN, Virtqueue } from '../../src/virtio/virtqueue.ts';
import { Random } from '../driver/random.ts';
import { DUEL, DUEL_FD, type DuelSetup, dawdle, spinUntilSignalled, wordsIn } from './kick-duel.ts';

const setup = JSON.parse(process.argv[2]!) as DuelSetup;
const random = new Random(setup.seed);
const memory = new GuestMemory((bytes) => new Window(bytes));
for (const region of setup.regions) memory.addRegion(region, DUEL_FD);
memory.resolve(setup.words, 0, DUEL.COUNT * 4);
const words = wordsIn(memory.window!, memory.offset);
const ring = new Virtqueue(memory);
const wrong = ring.attach(setup.size, setup.addresses);
if (wrong !== undefined) throw new Error(wrong);
ring.start(setup.startIndex, { eventIdx: setup.eventIdx, indirect: false });
const chain = new DescriptorChain(setup.size);
const isDue = () => ring.hasAvailable();

/** Everything that is available, announced in batches of one to four. */
function serve(): void {
  for (;;) {
    const popped = ring.pop(chain);
    if (popped === POP_BROKEN) throw new Error(ring.brokenReason);
    if (popped !== POP_CHAIN) break;
    memory.resolve(chain.addressLo[0]!, chain.addressHi[0]!, 4);
    ring.push(chain.head, memory.window!.i32[memory.offset >> 2]!);
    if (random.oneIn(2) && ring.publish()) Atomics.add(words, DUEL.calls, 1);
  }
  if (ring.publish()) Atomics.add(words, DUEL.calls, 1);
}

Atomics.store(words, DUEL.ready, 1);
while (Atomics.load(words, DUEL.stop) === 0) {
  serve();
  if (random.oneIn(2)) dawdle(random);
  const seen = Atomics.load(words, DUEL.kicks);
  ring.enableKicks();
  if (!ring.hasAvailable() && !spinUntilSignalled(words, DUEL.kicks, seen, isDue)) {
    Atomics.store(words, DUEL.lost, 1);
    // The driver waits for a call: it is woken to find out why.
    Atomics.add(words, DUEL.calls, 1);
    break;
  }
  ring.disableKicks();
}
