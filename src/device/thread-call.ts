/**
 * Synchronous calls from one thread to another, for threads that never return to the event loop: the
 * caller posts the call, wakes the other by its eventfd, and sleeps on a shared word until the answer
 * has been posted. One caller and one answerer a line, one call at a time. Cold path: some 50 µs.
 *
 *   word 0 ── call(): IS_CALLED ──► 1 ── answer(): the answer is there ──► 0
 */

import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { AssertionError, assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { createEventFd, signalEventFd } from '../native/eventfd.ts';
import { ProtocolError, RequestError } from '../vhost-user-ts/index.ts';

const IS_CALLED = 1;
/**
 * A turn of the other thread takes a few milliseconds, its start half a second, to map a guest of
 * 1 TiB some five; and this process may be stopped meanwhile. A thread that ends ends the process by
 * itself: this is only for one that hangs.
 */
const ANSWER_MILLIS_MAX = 120_000;

/** One end of a line; its port is transferred to the thread that is to have it. */
export interface LineEnd {
  readonly port: MessagePort;
  /** eventfd by which calls are announced to the answering thread. */
  readonly wakeFd: number;
  /** Of shared memory: not 0 while a caller waits. */
  readonly word: Int32Array;
}

/** Errors that are an answer, with their message; our bugs (assert.ts) end the answering thread. */
const ANSWERS = { RequestError, ProtocolError, RefusedError, Error } as const;

interface Answer {
  readonly result?: unknown;
  readonly error?: { readonly name: keyof typeof ANSWERS; readonly message: string };
}

export function makeLine(): { caller: LineEnd; answerer: LineEnd } {
  const { port1, port2 } = new MessageChannel();
  const rest = { wakeFd: createEventFd(), word: new Int32Array(new SharedArrayBuffer(4)) };
  return { caller: { port: port1, ...rest }, answerer: { port: port2, ...rest } };
}

export class ThreadCaller<Call> {
  readonly #end: LineEnd;

  constructor(end: LineEnd) {
    this.#end = end;
  }

  /** What the other thread has answered: returned, or thrown. */
  call(call: Call): unknown {
    const { port, wakeFd, word } = this.#end;
    Atomics.store(word, 0, IS_CALLED);
    port.postMessage(call);
    signalEventFd(wakeFd);
    // Not once: the notice of the last answer may come when its word was seen, and this is waited for.
    while (Atomics.load(word, 0) === IS_CALLED) {
      const outcome = Atomics.wait(word, 0, IS_CALLED, ANSWER_MILLIS_MAX);
      assert(outcome !== 'timed-out', 'a queue thread answers');
    }
    const { result, error } = receiveMessageOnPort(port)!.message as Answer;
    if (error !== undefined) throw new ANSWERS[error.name](error.message);
    return result;
  }
}

export class ThreadAnswerer<Call> {
  readonly #end: LineEnd;

  constructor(end: LineEnd) {
    this.#end = end;
  }

  /** Answers a call, if there is one, with what `carryOut` returns or throws. */
  answer(carryOut: (call: Call) => unknown): void {
    const { port, word } = this.#end;
    const received = receiveMessageOnPort(port);
    if (received === undefined) return;
    port.postMessage(outcomeOf(() => carryOut(received.message as Call)));
    Atomics.store(word, 0, 0);
    Atomics.notify(word, 0);
  }
}

function outcomeOf(carryOut: () => unknown): Answer {
  try {
    return { result: carryOut() };
  } catch (error) {
    if (error instanceof AssertionError) throw error;
    return { error: answerFor(error as Error) };
  }
}

/**
 * Whoever calls treats what the system refused like what we refuse, only the words matter; and what
 * JavaScript throws for want of memory.
 */
function answerFor(error: Error): NonNullable<Answer['error']> {
  const { message } = error;
  if (error instanceof SystemError || error instanceof RangeError) {
    return { name: 'RefusedError', message };
  }
  for (const name of ['RequestError', 'ProtocolError', 'RefusedError'] as const) {
    if (error instanceof ANSWERS[name]) return { name, message };
  }
  return { name: 'Error', message: `${error.name}: ${message}` };
}
