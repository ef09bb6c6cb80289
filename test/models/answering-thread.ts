/** The other end of thread-call.test.ts: answers until it is told to end. */

import { workerData } from 'node:worker_threads';
import { RefusedError, SystemError } from '../../src/base/errors.ts';
import { type LineEnd, ThreadAnswerer } from '../../src/device/thread-call.ts';
import { ProtocolError, RequestError } from '../../src/vhost-user-ts/index.ts';

export type TestCall =
  | { readonly kind: 'echo' | 'woken' | 'end'; readonly value: unknown }
  | { readonly kind: 'throw'; readonly error: string };

const ERRORS: Record<string, () => Error> = {
  RequestError: () => new RequestError('SET_VRING_NUM: ring 0: expected a power of two'),
  RefusedError: () => new RefusedError('no such memory region'),
  ProtocolError: () => new ProtocolError('not a request'),
  TypeError: () => new TypeError('nobody thought of it'),
  RangeError: () => new RangeError('WebAssembly.Memory(): could not allocate memory'),
  SystemError: () => new SystemError('mmap', 12, 'guest memory'),
};

/** As the notice of the answer before does, when this thread is slower than the other. */
function notifyTooEarly(): void {
  while (Atomics.notify(line.word, 0) === 0);
}

const { line } = workerData as { line: LineEnd };
const answerer = new ThreadAnswerer<TestCall>(line);
for (let isOver = false; !isOver; ) {
  answerer.answer((call) => {
    if (call.kind === 'throw') throw ERRORS[call.error]!();
    if (call.kind === 'end') isOver = true;
    if (call.kind === 'woken') notifyTooEarly();
    return call.value;
  });
}
