/**
 * Many devices beside a few: what each guest's slowest requests cost when one daemon serves 32 at the
 * same total rate as 4, and while a further device comes and goes every second. Drivers in this process
 * play the guests: requests of one page, reads and writes in turn, sent by the clock whether the last
 * one has ended or not (what waits counts as late), taken back by looking at the rings.
 *
 *   node --import tsx scripts/bench-devices.ts [--seconds N] [--rate REQUESTS]
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { AttachedDriver } from '../test/driver/daemon.ts';
import { ManyDaemon } from '../test/driver/many-daemon.ts';
import { Random } from '../test/driver/random.ts';
import { read, write } from '../test/driver/requests.ts';
import { median } from './median.ts';

const FEW = 4;
const MANY = 32;
const ROUNDS = 5;
/** Pages of each disk that are used, written once before. */
const PAGES = 512;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '6' },
    rate: { type: 'string', default: '2000' },
  },
});
const SECONDS = Number(values.seconds);
const RATE = Number(values.rate);

/** Pages that compress to about a third. */
const random = new Random(20090917);
const CONTENTS = Array.from({ length: 256 }, () => {
  const page = new Uint8Array(4096);
  page.set(random.bytes(1200), 600);
  return page;
});

class Guest {
  readonly attached: AttachedDriver;
  /** Of each ticket in flight: when it was due, in milliseconds. */
  readonly #due = new Map<number, number>();
  readonly #random: Random;
  #micros: number[] = [];
  #count = 0;

  constructor(attached: AttachedDriver, seed: number) {
    this.attached = attached;
    this.#random = new Random(seed);
  }

  #page(): Uint8Array {
    return this.#random.pick(CONTENTS);
  }

  fill(): void {
    for (let page = 1; page <= PAGES; page++) {
      this.attached.driver.submit(write(page, this.#page()));
      this.attached.driver.flush();
      this.attached.completeAll();
    }
  }

  submit(due: number): void {
    const { driver } = this.attached;
    const page = 1 + this.#random.below(PAGES);
    const request = this.#count++ % 2 === 0 ? read(page, 1) : write(page, this.#page());
    this.#due.set(driver.submit(request).number, due);
    driver.flush();
  }

  /** Takes back what has ended. */
  look(): void {
    const { driver } = this.attached;
    if (driver.ring.usedCount === 0) return;
    const now = performance.now();
    for (const { ticket, status } of driver.complete()) {
      if (status !== 0) throw new Error(`a request failed: status ${status}`);
      const micros = (now - this.#due.get(ticket.number)!) * 1000;
      this.#due.delete(ticket.number);
      this.#micros.push(micros);
    }
  }

  get isIdle(): boolean {
    return this.#due.size === 0;
  }

  /** 99% of its requests took less than this, in microseconds; since the last call. */
  p99(): number {
    const sorted = this.#micros.toSorted((a, b) => a - b);
    this.#micros = [];
    return sorted[Math.floor(sorted.length * 0.99)]!;
  }
}

/** Requests of all guests together at RATE, in turn, for SECONDS; each one's p99. */
async function load(guests: readonly Guest[], eachSecond?: () => Promise<void>): Promise<number[]> {
  const begun = performance.now();
  const total = SECONDS * RATE;
  let sent = 0;
  let beside: Promise<void> | undefined;
  let second = 0;
  while (sent < total || guests.some((guest) => !guest.isIdle)) {
    const due = begun + (sent * 1000) / RATE;
    if (sent < total && performance.now() >= due) guests[sent++ % guests.length]!.submit(due);
    for (const guest of guests) guest.look();
    if (eachSecond === undefined || performance.now() - begun < second * 1000) continue;
    second++;
    await beside;
    beside = eachSecond();
    // What it has sent goes out, and answers come in, when this loop lets them.
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  }
  await beside;
  return guests.map((guest) => guest.p99());
}

async function withDevices<T>(count: number, use: (guests: Guest[], daemon: ManyDaemon) => T) {
  const folder = mkdtempSync(join(tmpdir(), 'rz-bench-'));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  const daemon = await ManyDaemon.start(
    ['--num-devices', `${count}`, '--disksize', '64M'],
    undefined,
    { path: folder, remove },
  );
  const client = await daemon.client();
  for (let i = 0; i < count; i++) await client.call('init', { device: `ramzswap${i}` });
  client.close();
  const names = Array.from({ length: count }, (_, i) => `ramzswap${i}`);
  const guests = names.map((name, i) => new Guest(daemon.attach(name, { size: 1024 }), i));
  try {
    for (const guest of guests) guest.fill();
    return await use(guests, daemon);
  } finally {
    for (const { attached } of guests) attached.close();
    await daemon.stop();
  }
}

/** A further device: made, given a disk, taken away. */
async function comeAndGo(daemon: ManyDaemon): Promise<void> {
  const client = await daemon.client();
  await client.call('add', { device: 'guest' });
  await client.call('init', { device: 'guest' });
  await client.call('reset', { device: 'guest' });
  await client.call('remove', { device: 'guest' });
  client.close();
}

const micros = (value: number) => `${Math.round(value)} µs`;
const rows: { few: number; many: number; worst: number; changing: number }[] = [];
for (let round = 0; round < ROUNDS; round++) {
  const few = await withDevices(FEW, (guests) => load(guests));
  const [many, changing] = await withDevices(MANY, async (guests, daemon) => [
    await load(guests),
    await load(guests, () => comeAndGo(daemon)),
  ]);
  const row = {
    few: median(few),
    many: median(many!),
    worst: Math.max(...many!),
    changing: Math.max(...changing!),
  };
  rows.push(row);
  console.log(
    `round ${round + 1}: p99 of ${FEW} devices ${micros(row.few)}; of ${MANY}: ${micros(row.many)}, ` +
      `the worst ${micros(row.worst)}; worst while another comes and goes ${micros(row.changing)}`,
  );
}
const of = (pick: (row: (typeof rows)[number]) => number) => median(rows.map(pick));
console.log(
  `\n${cpus()[0]?.model}, ${cpus().length} CPUs; ${RATE} requests a second, ${SECONDS} s a round`,
);
console.log('| p99 of a device at the same total rate | median of rounds |');
console.log('|---|---|');
console.log(`| ${FEW} devices, the median device | ${micros(of(({ few }) => few))} |`);
console.log(`| ${MANY} devices, the median device | ${micros(of(({ many }) => many))} |`);
console.log(`| ${MANY} devices, the worst device | ${micros(of(({ worst }) => worst))} |`);
console.log(
  `| ${MANY} devices, the worst while another comes and goes every second | ${micros(of(({ changing }) => changing))} |`,
);
console.log(
  `the worst of ${MANY} to the median of ${FEW}: ${of(({ worst, few }) => worst / few).toFixed(2)} (wanted: at most 2)`,
);
