/**
 * The store's header page: what it is (format, device, shape, backing), whose pages it holds, and how
 * it was left. Read before anything of the store is mapped, written by its thread 0.
 *
 * Life: being made (no magic) → dirty, while a process has it → clean, when that let go of it in
 * order → dirty …
 */

import { RefusedError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import {
  arenaPagesFor,
  HEADER,
  HEADER_MAGIC,
  STORE_BACKING_BYTES,
  STORE_CLEAN,
  STORE_DIRTY,
  STORE_NAME_BYTES,
  STORE_SETTINGS_BYTES,
  STORE_UUID_BYTES,
  STORE_VERSION,
} from './layout.ts';

/** What a store must be to be the one that a device wants. */
export interface StoreIdentity {
  readonly name: string;
  /** Slots of the table. */
  readonly slots: number;
  /** SHA-256 of what the backing swap is; undefined without one. */
  readonly backing: Uint8Array | undefined;
}

/** A process, by what is never used twice: its number and when it began (clock ticks after boot). */
export interface ProcessIdentity {
  readonly process: number;
  readonly start: number;
}

/** One that cannot be seen: it is in another process namespace, say. */
export const UNKNOWN_PROCESS: ProcessIdentity = { process: 0xffffffff, start: 0 };

export class StoreHeader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  /** `page`: the header page, mapped or a copy. */
  constructor(page: Uint8Array) {
    this.#bytes = page.subarray(0, PAGE_BYTES);
    this.#view = new DataView(page.buffer, page.byteOffset, PAGE_BYTES);
  }

  /** Everything but the magic: complete() says that the store is made. */
  begin({ name, slots, backing }: StoreIdentity, uuid: Uint8Array): void {
    this.#bytes.fill(0, 0, HEADER.gauges);
    this.#set(HEADER.version, STORE_VERSION);
    this.#set(HEADER.slotCount, slots);
    this.#set(HEADER.arenaPages, arenaPagesFor(slots));
    this.#bytes.set(uuid.subarray(0, STORE_UUID_BYTES), HEADER.uuid);
    this.#bytes.set(Buffer.from(name, 'latin1').subarray(0, STORE_NAME_BYTES), HEADER.name);
    if (backing !== undefined) this.#bytes.set(backing, HEADER.backing);
  }

  complete(): void {
    this.#set(HEADER.magic, HEADER_MAGIC);
  }

  /** False: nobody has completed it, there is nothing in it. */
  get isComplete(): boolean {
    return this.#get(HEADER.magic) === HEADER_MAGIC;
  }

  /** Throws RefusedError, beginning with `where`, unless the store is the one that is wanted. */
  check(wanted: StoreIdentity, where: string): void {
    const refuse = (what: string, expected: unknown, got: unknown) => {
      throw new RefusedError(`${where}: ${what}: expected ${expected}, got ${got}`);
    };
    const version = this.#get(HEADER.version);
    if (version !== STORE_VERSION) refuse('format of the store', STORE_VERSION, version);
    if (this.name !== wanted.name) refuse('device', wanted.name, this.name);
    const slots = this.#get(HEADER.slotCount);
    if (slots !== wanted.slots) {
      const size = (count: number) => `${formatBytes(count * PAGE_BYTES)} (${count} pages)`;
      refuse('disk size (max-disksize where given)', size(wanted.slots), size(slots));
    }
    const arenaPages = this.#get(HEADER.arenaPages);
    const expected = arenaPagesFor(wanted.slots);
    if (arenaPages !== expected) refuse('arena pages', expected, arenaPages);
    this.#checkBacking(wanted, where);
  }

  #checkBacking({ backing }: StoreIdentity, where: string): void {
    const none = new Uint8Array(STORE_BACKING_BYTES);
    const found = this.#bytes.subarray(HEADER.backing, HEADER.backing + STORE_BACKING_BYTES);
    if (Buffer.compare(found, backing ?? none) === 0) return;
    const expected = backing === undefined ? 'none' : 'the one given';
    let got = 'another, or this one before its file was changed';
    if (backing === undefined) got = 'one';
    else if (Buffer.compare(found, none) === 0) got = 'none';
    throw new RefusedError(`${where}: backing swap: expected ${expected}, got ${got}`);
  }

  get name(): string {
    const bytes = this.#bytes.subarray(HEADER.name, HEADER.name + STORE_NAME_BYTES);
    return Buffer.from(bytes).toString('latin1').replace(/\0.*$/s, '');
  }

  /** What the device was initialised with; empty: nobody has said. */
  get settings(): string {
    const bytes = this.#bytes.subarray(HEADER.settings, HEADER.settings + STORE_SETTINGS_BYTES);
    return Buffer.from(bytes).toString('utf8').replace(/\0.*$/s, '');
  }

  /** Text that is too long is not kept. */
  set settings(text: string) {
    const bytes = Buffer.from(text);
    const at = HEADER.settings;
    this.#bytes.fill(0, at, at + STORE_SETTINGS_BYTES);
    if (bytes.length < STORE_SETTINGS_BYTES) this.#bytes.set(bytes, at);
  }

  /** The same as long as the content goes on. */
  get uuid(): Uint8Array {
    return this.#bytes.slice(HEADER.uuid, HEADER.uuid + STORE_UUID_BYTES);
  }

  set uuid(bytes: Uint8Array) {
    this.#bytes.set(bytes.subarray(0, STORE_UUID_BYTES), HEADER.uuid);
  }

  get generation(): number {
    return this.#get(HEADER.generation);
  }

  get threads(): number {
    return this.#get(HEADER.threads);
  }

  /** A process with `threads` threads has it from now on. */
  open(threads: number): void {
    this.#set(HEADER.state, STORE_DIRTY);
    this.#set(HEADER.generation, this.generation + 1);
    this.#set(HEADER.threads, threads);
  }

  get isClean(): boolean {
    return this.#get(HEADER.state) === STORE_CLEAN;
  }

  /** The process lets go of it in order. */
  close(): void {
    this.#set(HEADER.state, STORE_CLEAN);
  }

  /** The front end that it served last; undefined: none, what it holds is nobody's. */
  get frontEnd(): ProcessIdentity | undefined {
    const process = this.#get(HEADER.frontEndProcess);
    const start = this.#view.getFloat64(HEADER.frontEndStart, true);
    return process === 0 ? undefined : { process, start };
  }

  set frontEnd(identity: ProcessIdentity | undefined) {
    // Between the two it is somebody's whom nobody knows.
    this.#set(HEADER.frontEndProcess, UNKNOWN_PROCESS.process);
    this.#view.setFloat64(HEADER.frontEndStart, identity?.start ?? 0, true);
    this.#set(HEADER.frontEndProcess, identity?.process ?? 0);
  }

  #get(field: number): number {
    return this.#view.getUint32(field, true);
  }

  #set(field: number, value: number): void {
    this.#view.setUint32(field, value, true);
  }
}
