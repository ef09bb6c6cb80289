/**
 * Who is connected to a device, and whether its disk has been asked what this guest may read
 * (page-owner.ts): once a front end at least, and again when it brings another in-flight area.
 *
 *   nobody → begin (a connection) → meet (its first ring) → hasMetGuest → areaChanged → meet …
 *                                     ▲ forgetDisk (reset): whoever is here has met no disk there is
 */

import type { ProcessIdentity } from '../store/store-header.ts';
import { frontEndOf } from './front-end-process.ts';
import type { TrackedInflight } from './inflight-area.ts';
import type { MeetingSession, PageOwner } from './page-owner.ts';

/** What another process goes on with. */
export interface MeetingState {
  readonly hasMetFrontEnd: boolean;
  /** A ring was started for what the front end runs now: whose pages these are is settled. */
  readonly hasMetGuest: boolean;
}

export class Meeting {
  readonly #isServing: () => boolean;
  #frontEnd: ProcessIdentity | undefined;
  #hasMetFrontEnd = false;
  #hasMetGuest = false;

  /** `isServing`: whether any ring of the device is served. */
  constructor(isServing: () => boolean) {
    this.#isServing = isServing;
  }

  /** A front end has connected; with `state` its session comes from another process. */
  begin(fd: number, state: MeetingState = { hasMetFrontEnd: false, hasMetGuest: false }): void {
    this.#frontEnd = frontEndOf(fd);
    this.#hasMetFrontEnd = state.hasMetFrontEnd;
    this.#hasMetGuest = state.hasMetGuest;
  }

  get state(): MeetingState {
    return { hasMetFrontEnd: this.#hasMetFrontEnd, hasMetGuest: this.#hasMetGuest };
  }

  /** An area says whose requests it is about: this may be another guest, or the same one rebooted. */
  areaChanged(): void {
    this.#hasMetGuest = false;
  }

  /** Whoever is here has met no disk that there is: a guest that was paused looks for its pages again. */
  forgetDisk(): void {
    this.#hasMetFrontEnd = false;
    this.#hasMetGuest = false;
  }

  /** Whether a ring may start now; false while I/O for the last guest is waited for. */
  mayMeet(owner: PageOwner | undefined, tracked: TrackedInflight | undefined): boolean {
    // Without a disk there is nothing to find; init looks whose it is.
    return this.#hasMetGuest || owner === undefined || owner.mayMeet(this.#session(tracked));
  }

  /** A ring is about to start. Throws RequestError, RefusedError. */
  meet(owner: PageOwner | undefined, tracked: TrackedInflight | undefined): void {
    if (!this.#hasMetGuest && owner !== undefined) this.#meet(owner, this.#session(tracked));
  }

  /** A disk was made under rings that run; they have read nothing but errors until now. */
  meetNew(owner: PageOwner, tracked: TrackedInflight | undefined): void {
    this.#meet(owner, { ...this.#session(tracked), isServing: () => false });
  }

  #meet(owner: PageOwner, session: MeetingSession): void {
    owner.meet(session);
    this.#hasMetFrontEnd = true;
    this.#hasMetGuest = true;
  }

  #session(tracked: TrackedInflight | undefined): MeetingSession {
    return {
      frontEnd: this.#frontEnd,
      tracked,
      isKnown: this.#hasMetFrontEnd,
      isServing: this.#isServing,
    };
  }
}
