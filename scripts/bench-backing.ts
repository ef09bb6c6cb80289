/**
 * The backing swap beside fio: random 4 KiB reads and writes at depth 32, on the same file, all past
 * the page cache. Ours twice: the daemon's way to its backing alone (pages, extents, I/O, as a reactor
 * drives them), and the whole way, driver → virtqueue → daemon → file and back, two processes that wake
 * each other, with a checksum of every page. fio (io_uring) does nothing with what it moves. They take
 * turns, medians are compared. `npx tsx scripts/bench-backing.ts [--rounds N] [--seconds N] [--io KIND]`.
 */

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { GuestDaemon } from '../guest/daemon.ts';
import { openBackingFile } from '../src/backing/backing-file.ts';
import { PageIo } from '../src/backing/page-io.ts';
import { LATENCY } from '../src/base/latency.ts';
import { WINDOW_WORK_BYTES } from '../src/memory/window.ts';
import { EPOLLIN, Epoll } from '../src/native/epoll.ts';
import { closeFd } from '../src/native/fd.ts';
import { IoUring } from '../src/native/io-uring.ts';
import { LinuxAio } from '../src/native/linux-aio.ts';
import { PageWindow } from '../src/store/page-window.ts';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../src/virtio-blk/protocol.ts';
import { PreparedRequests } from '../test/driver/prepared-requests.ts';
import { Random } from '../test/driver/random.ts';
import { median } from './median.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const FILE_BYTES = 256 * MIB;
const FIRST_PAGE = 16;
const PAGES = FILE_BYTES / PAGE;
const DEPTH = 32;
/** Different pages of noise; which of them a request writes is random. */
const SOURCES = 1024;
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    /** Where the file is made: the disk that is measured. */
    folder: { type: 'string', default: fileURLToPath(new URL('../.cache/', import.meta.url)) },
    io: { type: 'string', default: 'auto' },
  },
});
const SECONDS = Number(values.seconds);

type Kind = 'read' | 'write';
type Figures = Record<Kind, number>;
const SIDES = ['backing', 'daemon', 'fio'] as const;
type Side = (typeof SIDES)[number];

/** Pages a second of the daemon's own way to its backing, without a daemon around it. */
function backing(file: string, seed: number): Figures {
  const { fd, map } = openBackingFile(file, PAGE);
  const window = new PageWindow(WINDOW_WORK_BYTES + DEPTH * PAGE);
  const place = { view: window.u8, offset: WINDOW_WORK_BYTES, count: DEPTH };
  const io = values.io === 'aio' ? new LinuxAio(fd, place, DEPTH) : new IoUring(fd, place, DEPTH);
  const epoll = new Epoll();
  epoll.add(io.wakeFd, EPOLLIN, 0);
  const latency = () => new Float64Array(LATENCY.DOUBLES);
  const pages = new PageIo({
    ...{ io, map, stagingPages: DEPTH },
    ...{ readLatency: latency(), writeLatency: latency() },
  });
  const random = new Random(seed);
  const measure = (isWrite: boolean) => {
    let done = 0;
    const next = (staging: number) =>
      pages.queue(isWrite, random.between(FIRST_PAGE, map.pages - 1), staging);
    const owner = {
      pageEnded(staging: number, errno: number) {
        if (errno !== 0) throw new Error(`errno ${errno}`);
        done++;
        pages.give(staging);
      },
    };
    const start = performance.now();
    const end = start + SECONDS * 1000;
    while (performance.now() < end) {
      for (let staging = pages.take(); staging >= 0; staging = pages.take()) next(staging);
      pages.flush();
      if (!pages.hasEnded()) epoll.wait(1000);
      pages.woken();
      pages.reap(owner);
    }
    const seconds = (performance.now() - start) / 1000;
    while (pages.freeStaging < DEPTH) pages.reap(owner);
    return done / seconds;
  };
  const figures = { read: measure(false), write: measure(true) };
  io.close();
  epoll.close();
  closeFd(fd);
  return figures;
}

/** Pages a second. The file is filled first: pages that the daemon did not write are not there. */
async function daemon(file: string, seed: number): Promise<Figures> {
  const running = await GuestDaemon.start(
    ...['--backing-swap', file, '--memlimit', '4K', '--log-level', 'error'],
    ...['--backing-io', values.io],
  );
  const driver = new PreparedRequests(running.socketPath, DEPTH, SOURCES);
  try {
    const random = new Random(seed);
    const noise = random.bytes(PAGE * 8);
    const view = driver.pagesView;
    for (let i = 0; i < SOURCES; i++) {
      // Each its own: shifted noise compresses as badly as noise.
      view.set(noise.subarray(i * 16, i * 16 + PAGE), i * PAGE);
    }
    const source = () => random.below(SOURCES);
    const page = () => random.between(FIRST_PAGE, PAGES - 1);
    driver.run(VIRTIO_BLK_T_OUT, PAGES - FIRST_PAGE, (i) => FIRST_PAGE + i, source);
    const measure = (type: number) => {
      let count = 0;
      let millis = 0;
      while (millis < SECONDS * 1000) {
        millis += driver.run(type, 8192, page, source);
        count += 8192;
      }
      return (count / millis) * 1000;
    };
    const figures = { read: measure(VIRTIO_BLK_T_IN), write: measure(VIRTIO_BLK_T_OUT) };
    const { pages_on_backing, failed_reads } = await running.statistics();
    if (pages_on_backing < PAGES * 0.99 || failed_reads > 0) throw new Error('not on the backing');
    return figures;
  } finally {
    driver.close();
    await running.stop();
  }
}

function fio(file: string): Figures {
  const run = (rw: string) => {
    const json = execFileSync(
      'fio',
      [
        ...['--name=bench', `--filename=${file}`, `--rw=${rw}`, '--bs=4k', `--iodepth=${DEPTH}`],
        ...['--ioengine=io_uring', '--direct=1', `--runtime=${SECONDS}`, '--time_based'],
        // The swap header stays, for the next round.
        ...[`--offset=${FIRST_PAGE * PAGE}`, '--output-format=json'],
      ],
      { encoding: 'utf8', maxBuffer: 16 * MIB },
    );
    const [job] = JSON.parse(json.slice(json.indexOf('{'))).jobs;
    return job[rw === 'randread' ? 'read' : 'write'].iops as number;
  };
  return { read: run('randread'), write: run('randwrite') };
}

async function main(): Promise<void> {
  mkdirSync(values.folder, { recursive: true });
  const folder = mkdtempSync(join(values.folder, 'bench-backing-'));
  const file = join(folder, 'swap');
  try {
    execFileSync('fallocate', ['-l', `${FILE_BYTES}`, file]);
    execFileSync('mkswap', [file], { stdio: 'ignore', env: { ...process.env, PATH } });
    const rounds: Record<Side, Figures>[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      // The daemon first: it fills the file, so that the others too find blocks that were written.
      const whole = await daemon(file, round + 1);
      rounds.push({ daemon: whole, backing: backing(file, round + 1), fio: fio(file) });
    }
    const table = new Table({
      head: ['4 KiB, depth 32, pages/s', ...SIDES, 'backing / fio', 'daemon / fio'],
      style: { head: [], border: [] },
    });
    for (const kind of ['read', 'write'] as const) {
      const [alone, whole, theirs] = SIDES.map((side) =>
        median(rounds.map((round) => round[side][kind])),
      ) as [number, number, number];
      const ratios = [alone / theirs, whole / theirs].map((ratio) => ratio.toFixed(2));
      table.push([`random ${kind}`, ...[alone, whole, theirs].map((n) => n.toFixed(0)), ...ratios]);
    }
    console.log(table.toString());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
