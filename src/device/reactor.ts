/**
 * The reactor: one thread's loop over everything of its devices. It never returns to Node's event
 * loop until it is told to stop.
 *
 *   turn: serve every ring a bounded batch
 *     │ more to do ──────────────► now and then: sockets, orders, upkeep ──► next turn
 *     ▼ nothing
 *   poll: look at the rings for a while (poll-policy.ts) ── something ──► next turn
 *     ▼ nothing
 *   sleep: enable kicks, look again, then wait in epoll for kicks, sockets, orders, or time
 */

import { AssertionError } from '../base/assert.ts';
import { errnoText, SystemError } from '../base/errors.ts';
import { sooner } from '../base/wait.ts';
import { involuntarySwitches, monotonicMicros, turnClock } from '../native/clock.ts';
import { EPOLLET, EPOLLIN, EPOLLRDHUP, Epoll } from '../native/epoll.ts';
import { drainEventFd } from '../native/eventfd.ts';
import { closeFd, setNonBlocking } from '../native/fd.ts';
import { preparePeerSignals } from '../native/peer-eventfd.ts';
import { acceptConnection, isPeerGone, listenAgain, peerProcessId } from '../native/socket.ts';
import { ProtocolError } from '../vhost-user-ts/index.ts';
import type { BlockDevice } from './block-device.ts';
import type { CompletionWatcher } from './disk.ts';
import { PollPolicy } from './poll-policy.ts';
import type { QueueSet } from './queue-set.ts';
import type { ReportKind, ReportLevel } from './reports.ts';
import type { KickWatcher } from './ring.ts';
import { Upkeep } from './upkeep.ts';

/** While the rings keep it busy, every so many turns it looks at sockets, orders and upkeep. */
const TURNS_PER_LOOK = 8;
/** Looks at the rings between two looks at the clock. */
const LOOKS_PER_CLOCK = 32;
/** Sleep no longer than this while a message of a front end waits for I/O. */
const WAITING_SESSION_MILLIS = 1;

const ACCEPT_PAUSE_MICROS = 500_000;
/** EINTR, EAGAIN, ECONNABORTED: the connection is gone, or there was none. */
const PASSING_ERRNOS: ReadonlySet<number> = new Set([4, 11, 103]);

export interface ReactorEvents {
  /** Orders are waiting: the wake-up descriptor was signalled. */
  takeOrders(): void;
  /** Not 0 while somebody waits for an order to be taken: then it is taken before all other work. */
  readonly urgent?: Int32Array;
  report(device: string, level: ReportLevel, message: string, kind: ReportKind): void;
  /** HOT PATH: no allocation. Upkeep of whoever has the reactor; milliseconds until there is more. */
  maintain?(): number;
  /** A connection has begun or ended. */
  connection?(device: string, isConnected: boolean): void;
}

interface Endpoint {
  readonly device: BlockDevice;
  readonly listenFd: number | undefined;
  sessionFd: number | undefined;
  /** When to accept again (wrapping microseconds); undefined while accepting. */
  acceptAgainAt: number | undefined;
  /** Why it was paused last: told once. */
  acceptErrno: number;
}

export class Reactor implements KickWatcher, CompletionWatcher {
  readonly #epoll = new Epoll();
  readonly #events: ReactorEvents;
  readonly #urgent: Int32Array | undefined;
  readonly #wakeFd: number;
  /** What to do for each descriptor's event, by token; the token is the descriptor. */
  readonly #handlers = new Map<number, () => void>();
  readonly #served: QueueSet[] = [];
  readonly #endpoints: Endpoint[] = [];
  readonly #policy = new PollPolicy();
  readonly #upkeep = new Upkeep();
  /** Whose rings had something to do last, when they were served or looked at: who is polled for. */
  #lastBusy: QueueSet | undefined;
  #isStopping = false;
  #sawKick = false;

  /** `wakeFd`: an eventfd by which orders are announced; it stays the caller's. */
  constructor(wakeFd: number, events: ReactorEvents) {
    this.#wakeFd = wakeFd;
    this.#events = events;
    this.#urgent = events.urgent;
    preparePeerSignals();
    this.#watch(wakeFd, () => {
      drainEventFd(wakeFd);
      events.takeOrders();
    });
  }

  /** From now on every turn serves these. */
  add(queues: QueueSet): void {
    this.#served.push(queues);
  }

  /** Serves these no longer. */
  drop(queues: QueueSet): void {
    const at = this.#served.indexOf(queues);
    if (at >= 0) this.#served.splice(at, 1);
    if (this.#lastBusy === queues) this.#lastBusy = undefined;
  }

  /** Ends the device's session, accepts no other, and serves it no longer. */
  remove(device: BlockDevice): void {
    this.drop(device.queues);
    for (let i = this.#endpoints.length - 1; i >= 0; i--) {
      const endpoint = this.#endpoints[i]!;
      if (endpoint.device !== device) continue;
      this.#endpoints.splice(i, 1);
      if (endpoint.listenFd !== undefined) this.#unwatch(endpoint.listenFd);
      this.#end(endpoint);
    }
  }

  /** Accepts the device's front ends, one at a time. */
  listen(device: BlockDevice, listenFd: number): void {
    // An inherited one may block, and another process may take the connection first.
    setNonBlocking(listenFd);
    this.#acceptAgain(this.#addEndpoint(device, listenFd), listenFd);
  }

  /** Serves one connection that exists already. */
  adopt(device: BlockDevice, fd: number): void {
    this.#begin(this.#addEndpoint(device, undefined), fd);
  }

  /** Goes on with a device that was taken over, with its session if it has one. */
  resume(device: BlockDevice, listenFd: number | undefined): void {
    const endpoint = this.#addEndpoint(device, listenFd);
    if (listenFd !== undefined) {
      listenAgain(listenFd);
      this.#watchListening(endpoint, listenFd);
    }
    const { sessionFd } = device;
    if (sessionFd !== undefined) {
      this.#watch(sessionFd, () => this.#pollSession(endpoint));
      endpoint.sessionFd = sessionFd;
      this.#events.connection?.(device.name, true);
    }
    device.resume();
  }

  #addEndpoint(device: BlockDevice, listenFd: number | undefined): Endpoint {
    const endpoint = {
      device,
      listenFd,
      sessionFd: undefined,
      acceptAgainAt: undefined,
      acceptErrno: 0,
    };
    this.#endpoints.push(endpoint);
    return endpoint;
  }

  /**
   * Every kick is told once and none is read: the front end may have taken it back meanwhile, and then
   * a read would wait for the next. What counts is that one came: rings are looked at before a sleep.
   */
  watchKick(fd: number): void {
    const sawKick = () => {
      this.#sawKick = true;
    };
    this.#watch(fd, sawKick, EPOLLIN | EPOLLET);
  }

  unwatchKick(fd: number): void {
    this.#unwatch(fd);
  }

  watchCompletions(fd: number, onReadable: () => void): void {
    this.#watch(fd, onReadable);
  }

  unwatchCompletions(fd: number): void {
    this.#unwatch(fd);
  }

  /** Makes run() return after the present turn. */
  stop(): void {
    this.#isStopping = true;
  }

  /** Serves until stop(). The clock is read again after all that takes time. */
  run(): void {
    turnClock.read();
    for (let turn = 0; !this.#isStopping; turn = (turn + 1) & 0xffff) {
      const isBusy = this.#serve() || this.#poll();
      if (!isBusy && this.#sleep()) continue;
      if (turn % TURNS_PER_LOOK !== 0) continue;
      this.#maintain(turnClock.micros);
      this.#dispatch(0);
      turnClock.read();
    }
  }

  /**
   * HOT PATH: no allocation while nobody waits. Between what any two devices have done for them, for
   * whoever waits for many orders in a row waits for as much each time. The order may not be there yet:
   * then it is taken the next time, or with the event that announces it.
   */
  #answer(): void {
    if (this.#urgent === undefined || Atomics.load(this.#urgent, 0) === 0) return;
    this.#events.takeOrders();
    this.#upkeep.note();
    turnClock.read();
  }

  /** Ends all sessions; listening descriptors stay the caller's. */
  close(): void {
    for (const endpoint of this.#endpoints) this.#end(endpoint);
    this.#unwatch(this.#wakeFd);
    this.#epoll.close();
  }

  /** HOT PATH: no allocation. One turn; whether there may be more. */
  #serve(): boolean {
    let hasMore = false;
    for (let i = 0; i < this.#served.length; i++) {
      const queues = this.#served[i]!;
      if (queues.serve()) hasMore = true;
      if (queues.hasServed) {
        this.#lastBusy = queues;
        this.#upkeep.note();
      }
      this.#answer();
    }
    return hasMore;
  }

  /** HOT PATH: no allocation. */
  #hasWork(): boolean {
    for (let i = 0; i < this.#served.length; i++) {
      const queues = this.#served[i]!;
      if (!queues.hasWork()) continue;
      this.#lastBusy = queues;
      return true;
    }
    return false;
  }

  /** HOT PATH: no allocation. Looks at the rings for a while; whether something came. */
  #poll(): boolean {
    const start = turnClock.micros;
    if (this.#policy.isPeriodOver(start)) this.#policy.renew(start, involuntarySwitches());
    const wanted = this.#policy.pollMicros;
    if (wanted === 0) return false;
    let found = false;
    let elapsed = 0;
    while (!found && elapsed < wanted) {
      for (let i = 0; i < LOOKS_PER_CLOCK && !found; i++) found = this.#hasWork();
      this.#answer();
      elapsed = (turnClock.read() - start) | 0;
    }
    this.#policy.polled(elapsed, found);
    this.#lastBusy?.countPolling(elapsed);
    return found;
  }

  /** HOT PATH: no allocation. False: something came, so it neither slept nor looked at sockets. */
  #sleep(): boolean {
    for (let i = 0; i < this.#served.length; i++) this.#served[i]!.enableKicks();
    // Enable, then look again: what came before the driver could see the wish brings no kick.
    const isIdle = !this.#hasWork();
    if (isIdle) {
      const start = turnClock.micros;
      this.#sawKick = false;
      this.#dispatch(this.#maintain(start));
      const slept = (turnClock.read() - start) | 0;
      if (this.#sawKick) this.#policy.slept(slept);
    }
    for (let i = 0; i < this.#served.length; i++) this.#served[i]!.disableKicks();
    return isIdle;
  }

  /** HOT PATH: no allocation. A step of all upkeep; how long a sleep may last. */
  #maintain(now: number): number {
    this.#answer();
    const millis = sooner(this.#lookAgain(now), this.#events.maintain?.() ?? -1);
    return sooner(millis, this.#upkeep.step(this.#served, now));
  }

  #dispatch(timeoutMillis: number): void {
    const count = this.#epoll.wait(timeoutMillis);
    if (count > 0) this.#upkeep.note();
    for (let i = 0; i < count; i++) {
      // A handler may have ended what a later event of the same wait is about.
      this.#handlers.get(this.#epoll.token(i))?.();
    }
  }

  #watch(fd: number, handler: () => void, events = EPOLLIN | EPOLLRDHUP): void {
    this.#epoll.add(fd, events, fd);
    this.#handlers.set(fd, handler);
  }

  #unwatch(fd: number): void {
    if (this.#handlers.delete(fd)) this.#epoll.remove(fd);
  }

  #accept(endpoint: Endpoint, listenFd: number): void {
    const fd = acceptConnection(listenFd);
    if (fd < 0) {
      if (!PASSING_ERRNOS.has(-fd)) this.#pauseAccepting(endpoint, listenFd, -fd);
      return;
    }
    const { device, sessionFd } = endpoint;
    // Its own event may come behind this one: that it has gone, or what it has sent and is its end.
    if (sessionFd !== undefined && isPeerGone(sessionFd)) this.#hasLeft(endpoint);
    else if (sessionFd !== undefined) this.#pollSession(endpoint);
    if (endpoint.sessionFd !== undefined) {
      const [newPeer, oldPeer] = [peerProcessId(fd), peerProcessId(endpoint.sessionFd)];
      const what = `connection from process ${newPeer} refused: in use by process ${oldPeer}`;
      closeFd(fd);
      this.#events.report(device.name, 'warn', what, 'other connection');
      return;
    }
    this.#begin(endpoint, fd);
  }

  /**
   * Accepting fails for want of descriptors, or for good: what waits in the backlog would wake us
   * for ever, so the socket is left alone for a while.
   */
  #pauseAccepting(endpoint: Endpoint, listenFd: number, errno: number): void {
    this.#unwatch(listenFd);
    this.#putOff(endpoint, errno);
  }

  #putOff(endpoint: Endpoint, errno: number): void {
    endpoint.acceptAgainAt = (monotonicMicros() + ACCEPT_PAUSE_MICROS) | 0;
    if (endpoint.acceptErrno === errno) return;
    endpoint.acceptErrno = errno;
    this.#report(endpoint, 'error', `connections put off: ${errnoText(errno)}`);
  }

  /** Milliseconds until a socket is to be looked at again that will not tell; -1: there is none. */
  #lookAgain(now: number): number {
    let millis = -1;
    for (let i = 0; i < this.#endpoints.length; i++) {
      const endpoint = this.#endpoints[i]!;
      if (endpoint.device.isWaiting) {
        this.#pollSession(endpoint);
        millis = sooner(millis, WAITING_SESSION_MILLIS);
      }
      if (endpoint.acceptAgainAt === undefined || endpoint.listenFd === undefined) continue;
      const wait = (endpoint.acceptAgainAt - now) | 0;
      if (wait > 0) millis = sooner(millis, Math.ceil(wait / 1000));
      else this.#acceptAgain(endpoint, endpoint.listenFd);
    }
    return millis;
  }

  /** The kernel may be out of memory, or of watches: then later. */
  #acceptAgain(endpoint: Endpoint, listenFd: number): void {
    try {
      this.#watchListening(endpoint, listenFd);
      endpoint.acceptAgainAt = undefined;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#putOff(endpoint, error.errno);
    }
  }

  #watchListening(endpoint: Endpoint, listenFd: number): void {
    this.#watch(listenFd, () => this.#accept(endpoint, listenFd));
  }

  #begin(endpoint: Endpoint, fd: number): void {
    const { device } = endpoint;
    endpoint.acceptErrno = 0;
    try {
      this.#watch(fd, () => this.#pollSession(endpoint));
    } catch (error) {
      closeFd(fd);
      this.#report(endpoint, 'error', `connection refused: ${(error as Error).message}`);
      return;
    }
    device.attach(fd);
    endpoint.sessionFd = fd;
    this.#events.connection?.(device.name, true);
    this.#report(endpoint, 'info', `front end connected: process ${peerProcessId(fd)}`);
  }

  #report({ device }: Endpoint, level: ReportLevel, message: string): void {
    this.#events.report(device.name, level, message, 'session');
  }

  #pollSession(endpoint: Endpoint): void {
    const { device } = endpoint;
    try {
      if (device.pollSession()) return;
    } catch (error) {
      this.#hasLeft(endpoint, `connection dropped: ${dropReason(error)}`);
      return;
    }
    this.#hasLeft(endpoint);
  }

  /** The session is over; `wrong` is what it was dropped for. */
  #hasLeft(endpoint: Endpoint, wrong?: string): void {
    const { name } = endpoint.device;
    if (wrong === undefined) this.#report(endpoint, 'info', 'front end disconnected');
    else this.#report(endpoint, 'error', wrong);
    this.#end(endpoint);
    this.#events.connection?.(name, false);
  }

  #end(endpoint: Endpoint): void {
    if (endpoint.sessionFd === undefined) return;
    this.#unwatch(endpoint.sessionFd);
    endpoint.sessionFd = undefined;
    endpoint.device.detach();
  }
}

/**
 * What a session is dropped for: whatever its messages have led to, but for our own bugs where they are
 * seen. An error that nobody has thought of leaves only this session in a state that nobody has thought
 * of, which ends with it; the other devices go on.
 */
function dropReason(error: unknown): string {
  if (error instanceof AssertionError) throw error;
  const { name, message } = error as Error;
  const isExpected = error instanceof ProtocolError || error instanceof SystemError;
  return isExpected ? message : `unexpected ${name}: ${message}`;
}
