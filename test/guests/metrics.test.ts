/**
 * Metrics and the status page of a daemon under load: a driver swaps out, reads back and discards, and
 * what Prometheus' parser and a browser read is what the control socket says.
 */

import { spawnSync } from 'node:child_process';
import { type AddressInfo, createServer } from 'node:net';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { Chromium, findChromium } from '../../scripts/chromium.ts';
import { VIRTIO_BLK_T_DISCARD } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, RZSCONTROL, sleep } from '../driver/daemon.ts';
import { hasPrometheusParser, parseMetrics, sampleOf } from '../driver/prometheus-parser.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';

const PAGE = 4096;
const PAGES = 8192;
const PAGES_A_REQUEST = 64;
const WAIT_MILLIS_MAX = 20_000;

const canServe =
  isBuilt && spawnSync(process.execPath, [RAMZSWAPD, '--help']).stdout.includes('--metrics');
const isReady = canServe && hasPrometheusParser && findChromium() !== undefined;
if (!isReady) console.warn('metrics of a daemon: NOT TESTED, make test sets up what it needs');

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** One that nobody has now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A third of each page is noise, every eighth page is zeros. */
function contents(random: Random): Uint8Array {
  const data = new Uint8Array(PAGES_A_REQUEST * PAGE);
  for (let page = 0; page < PAGES_A_REQUEST; page++) {
    if (page % 8 === 7) continue;
    data.fill(page + 1, page * PAGE, (page + 1) * PAGE);
    data.set(random.bytes(PAGE / 3), page * PAGE);
  }
  return data;
}

/** Sweeps the disk again and again, as long as `seconds`, at some thousand pages a second. */
async function load(attached: AttachedDriver, seconds: number): Promise<void> {
  const { driver } = attached;
  const random = new Random(7);
  const end = performance.now() + 1000 * seconds;
  for (let page = 0; performance.now() < end; page = (page + PAGES_A_REQUEST) % PAGES) {
    driver.submit(write(page, contents(random)));
    driver.submit(read(page, PAGES_A_REQUEST));
    if (page % 512 === 0) {
      driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 8 * page, sectors: 8 * 128 }]));
    }
    driver.flush();
    expect(attached.completeAll().filter(({ status }) => status !== 0)).toEqual([]);
    await sleep(10);
  }
}

async function statistics(daemon: Daemon): Promise<Record<string, number>> {
  const args = ['--control-path', daemon.controlPath, 'ramzswap0', '--stats', '--json'];
  const { stdout } = await execa(process.execPath, [RZSCONTROL, ...args]);
  return JSON.parse(stdout) as Record<string, number>;
}

describe.skipIf(!isReady)('a daemon under load', () => {
  it('says the same to Prometheus, to a browser and to rzscontrol', async () => {
    const where = `127.0.0.1:${await freePort()}`;
    const daemon = await Daemon.start(['--metrics', where]);
    cleanUps.push(() => daemon.stop());
    const attached = AttachedDriver.connect(daemon, { ramBytes: 32 << 20, size: 256 });
    cleanUps.push(() => attached.close());
    const chromium = await Chromium.start();
    cleanUps.push(() => chromium.close());
    await chromium.show({ width: 1280 });
    await chromium.open(`http://${where}`);

    const rates: number[] = [];
    const watch = async () => {
      const text = await shown(chromium, '.card [data-f="written"]');
      rates.push(Number(text.replace(/\D/g, '')));
    };
    for (let looks = 0; looks < 5; looks++) {
      await load(attached, 1.5);
      await watch();
    }
    expect(Math.max(...rates)).toBeGreaterThan(100);
    expect(await shown(chromium, '#link')).toBe('live');

    const truth = await statistics(daemon);
    const { stdout } = await execa('curl', ['-sSf', `http://${where}/metrics`]);
    const families = parseMetrics(`${stdout}\n`, 'prometheus');
    const metric = (name: string) => sampleOf(families, name, { device: 'ramzswap0' });
    expect(metric('ramzswap_pages_written_total')).toBe(truth.num_writes);
    expect(metric('ramzswap_pages_read_total')).toBe(truth.num_reads);
    expect(metric('ramzswap_pages_discarded_total')).toBe(truth.notify_free);
    expect(metric('ramzswap_original_bytes')).toBe(truth.orig_data_size);
    expect(metric('ramzswap_pages_read_failed_total')).toBe(0);
    expect(truth.num_writes).toBeGreaterThan(1000);
    const ratio = truth.orig_data_size! / truth.mem_used_total!;
    expect(metric('ramzswap_memory_ratio')).toBeCloseTo(ratio, 1);

    const mib = (bytes: number) => `${(bytes / 1024 ** 2).toFixed(1).replace('.0', '')} MiB`;
    const stored = mib(truth.orig_data_size!);
    const end = Date.now() + WAIT_MILLIS_MAX;
    const now = () => shown(chromium, '.card [data-f="stored"]');
    while ((await now()) !== stored && Date.now() < end) await sleep(100);
    expect(await now()).toBe(stored);
    expect(await shown(chromium, '.card [data-f="ratio"]')).toBe(ratio.toFixed(2));

    daemon.child.kill('SIGKILL');
    while ((await shown(chromium, '#link')) !== 'no answer' && Date.now() < end) await sleep(100);
    expect(await shown(chromium, '#gone')).toMatch(/does not answer/);
    expect(chromium.complaints).toEqual([]);
  });
});

async function shown(chromium: Chromium, selector: string): Promise<string> {
  return chromium.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
}
