/**
 * Whose pages a device's store holds, and what becomes of them when another guest comes, or when nobody
 * can come back. Who is connected is block-device.ts's to know.
 */

import { RefusedError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { monotonicMicros } from '../native/clock.ts';
import type { PageStore } from '../store/page-store.ts';
import { type ProcessIdentity, UNKNOWN_PROCESS } from '../store/store-header.ts';
import { RequestError } from '../vhost-user-ts/index.ts';
import type { Backing } from './backing.ts';
import { writeSwapHeader } from './device-store.ts';
import type { DiskOptions } from './disk.ts';
import { hasEnded, isSameProcess } from './front-end-process.ts';
import { markedStore, markStore, type TrackedInflight } from './inflight-area.ts';
import type { Report } from './reports.ts';

/** How long a new guest may wait for the last one's I/O. */
const SETTLE_MICROS = 5_000_000;

/** I/O of the backing swap is under way: what was asked for may be asked again. */
export class UnsettledError extends RefusedError {}

/** The session in which a ring is about to start. */
export interface MeetingSession {
  readonly frontEnd: ProcessIdentity | undefined;
  readonly tracked: TrackedInflight | undefined;
  /** A ring was started in it before: it is the front end that was here. */
  readonly isKnown: boolean;
  /** Whether any ring is served now. */
  readonly isServing: () => boolean;
}

export class PageOwner {
  readonly #options: DiskOptions;
  readonly #store: PageStore;
  readonly #backing: Backing | undefined;
  readonly #report: Report;
  /** A new guest waits since then (wrapping microseconds). */
  #waitsSince: number | undefined;

  constructor(
    options: DiskOptions,
    store: PageStore,
    backing: Backing | undefined,
    report: Report,
  ) {
    this.#options = options;
    this.#store = store;
    this.#backing = backing;
    this.#report = report;
  }

  /**
   * Whether meet() can decide, or has to refuse; asked again and again. If this is another guest than the
   * last one, I/O for that has ended, or takes too long, and its pages are gone.
   */
  mayMeet(session: MeetingSession): boolean {
    if (this.#whatIsThere(session) === 'own' || session.isServing()) return this.#waitsNoMore();
    if (this.settle(0)) return !this.#store.drain() && this.#waitsNoMore();
    this.#waitsSince ??= monotonicMicros();
    const isTooLong = ((monotonicMicros() - this.#waitsSince) | 0) >= SETTLE_MICROS;
    return isTooLong && this.#waitsNoMore();
  }

  #waitsNoMore(): true {
    this.#waitsSince = undefined;
    return true;
  }

  /** Of whom the store's pages are, seen from a guest: its own, another's, and then are its own lost? */
  #whatIsThere(session: MeetingSession): 'own' | 'strange' | 'lost' {
    const whose = this.#whosePages(session);
    // Another guest was to have them emptied, and has left while they were.
    return whose === 'own' && this.#store.isDrained ? 'lost' : whose;
  }

  #whosePages({ frontEnd, tracked, isKnown }: MeetingSession): 'own' | 'strange' | 'lost' {
    const { header } = this.#store.mapped;
    const named = tracked === undefined ? undefined : markedStore(tracked.inflight, tracked.fd);
    if (named !== undefined) return Buffer.compare(named, header.uuid) === 0 ? 'own' : 'lost';
    const last = header.frontEnd;
    const isNew = !isKnown && last !== undefined && !isSameProcess(last, frontEnd);
    return isNew && this.#options.onNewGuest !== 'keep' ? 'strange' : 'own';
  }

  /**
   * A ring is about to start: what may this guest read? What the store holds if it is that guest's:
   * its in-flight area says so, or the front end is the process that it served last. An area that
   * names another store belongs to a guest whose pages are elsewhere or gone: then nothing is known,
   * and reads must not say zeros. Throws RequestError, RefusedError.
   */
  meet(session: MeetingSession): void {
    const { frontEnd, tracked } = session;
    const { header } = this.#store.mapped;
    const there = this.#whatIsThere(session);
    if (there === 'lost') {
      this.#report('error', 'this guest had its pages in another store: they read as errors here');
    }
    if (there !== 'own') this.#forget(session, there === 'lost');
    header.frontEnd = frontEnd ?? UNKNOWN_PROCESS;
    if (tracked !== undefined) markStore(tracked.inflight, tracked.fd, header.uuid);
  }

  #forget({ isServing }: MeetingSession, isLost: boolean): void {
    // A front end that brings another store's area while it runs rings on this one.
    if (isServing()) {
      throw new RequestError('SET_VRING_KICK: expected no other ring to run with another store');
    }
    if (!this.settle(0)) {
      throw new RequestError('SET_VRING_KICK: I/O for the last guest has not ended yet');
    }
    this.#empty(isLost);
    if (!isLost) this.#report('info', 'a new front end: what the last one left was emptied');
  }

  /** The store is whole: what was begun for a guest that has left is ended. */
  mustBeWhole(): void {
    if (this.#store.isDrained) this.#empty(this.#options.onNewGuest === 'keep');
  }

  #empty(isLost: boolean): void {
    this.#store.reset(this.#options.guestPageBytes / PAGE_BYTES, isLost);
    writeSwapHeader(this.#store, this.#options);
  }

  /** Whether I/O of the backing swap has come to its end; waits for it so long. */
  settle(millis: number): boolean {
    return this.#backing === undefined || this.#backing.store.settle(millis);
  }

  /** Throws UnsettledError where it has not. */
  mustSettle(millis: number): void {
    if (this.settle(millis)) return;
    const { name } = this.#options;
    throw new UnsettledError(`${name}: I/O on the backing swap does not come to its end`);
  }

  /** Whether somebody who is not here may come back for them: who was served last, or anybody. */
  get mayComeBack(): boolean {
    const last = this.#store.mapped.header.frontEnd;
    return last !== undefined && (this.#options.onNewGuest === 'keep' || !hasEnded(last));
  }
}
