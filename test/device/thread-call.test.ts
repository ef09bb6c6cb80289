/** Calls between two threads that do nothing else: values, errors, one after the other. */

import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AssertionError, assert } from '../../src/base/assert.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { makeLine, ThreadAnswerer, ThreadCaller } from '../../src/device/thread-call.ts';
import { closeFd } from '../../src/native/fd.ts';
import { ProtocolError, RequestError } from '../../src/vhost-user-ts/index.ts';
import { startThread } from '../driver/threads.ts';
import type { TestCall } from '../models/answering-thread.ts';

const CALLS = 2000;
let worker: Worker;
let caller: ThreadCaller<TestCall>;
let wakeFd: number;

beforeAll(() => {
  const line = makeLine();
  wakeFd = line.caller.wakeFd;
  caller = new ThreadCaller(line.caller);
  const url = new URL('../models/answering-thread.ts', import.meta.url);
  worker = startThread(url, { line: line.answerer }, [line.answerer]);
});

afterAll(async () => {
  const ended = once(worker, 'exit');
  caller.call({ kind: 'end', value: undefined });
  await ended;
  closeFd(wakeFd);
});

describe('a call', () => {
  it('waits for a thread that has only begun to start, and brings back what it returns', () => {
    const value = [{ big: 2n ** 63n, text: 'x', none: undefined }, 7];
    expect(caller.call({ kind: 'echo', value })).toEqual(value);
    expect(caller.call({ kind: 'echo', value: undefined })).toBeUndefined();
  });

  it.each([
    ['RequestError', RequestError, /^SET_VRING_NUM: ring 0: expected a power of two$/],
    ['RefusedError', RefusedError, /^no such memory region$/],
    ['ProtocolError', ProtocolError, /^not a request$/],
    ['RangeError', RefusedError, /could not allocate memory$/],
    ['SystemError', RefusedError, /^guest memory: mmap: ENOMEM \(.*\)$/],
    ['TypeError', Error, /^TypeError: nobody thought of it$/],
  ] as const)('throws what was thrown there: %s', (error, type, message) => {
    const call = () => caller.call({ kind: 'throw', error });
    expect(call).toThrow(type);
    expect(call).toThrow(message);
    expect(caller.call({ kind: 'echo', value: 1 })).toBe(1);
  });

  it('is answered when its answer is there, whatever wakes the caller before', () => {
    for (let i = 0; i < 20; i++) expect(caller.call({ kind: 'woken', value: i })).toBe(i);
  });

  it(`${CALLS} times, each has its own answer`, () => {
    for (let i = 0; i < CALLS; i++) expect(caller.call({ kind: 'echo', value: i })).toBe(i);
  });
});

describe('an answerer', () => {
  it('that is not called does nothing, and is called once a call', () => {
    const { caller: mine, answerer: end } = makeLine();
    const answerer = new ThreadAnswerer<string>(end);
    const calls: string[] = [];
    answerer.answer((call) => calls.push(call));
    mine.port.postMessage('first');
    for (let i = 0; i < 3; i++) answerer.answer((call) => calls.push(call));
    expect(calls).toEqual(['first']);
    mine.port.close();
    closeFd(mine.wakeFd);
  });

  it('leaves errors that are our bugs to its own thread', () => {
    const { caller: mine, answerer: end } = makeLine();
    const answerer = new ThreadAnswerer<string>(end);
    mine.port.postMessage('call');
    const fail = () => assert(false, 'a bug');
    expect(() => answerer.answer(fail)).toThrow(AssertionError);
    mine.port.close();
    closeFd(mine.wakeFd);
  });
});
