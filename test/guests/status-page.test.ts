/**
 * The status page in a browser: what it shows of figures that change, what cannot be overlooked, and
 * what a device's name can do to it. No guest takes part; Chromium is installed with what guests need.
 */

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Chromium, findChromium } from '../../scripts/chromium.ts';
import { type MetricsServer, serveMetrics } from '../../src/control/metrics-server.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { sleep } from '../driver/daemon.ts';
import { deviceOf, StatusSource, statisticsOf } from '../driver/status-source.ts';

const MIB = 1024 ** 2;
const PAGE = 4096;
const WAIT_MILLIS_MAX = 30_000;
const WIDTHS = [400, 1280] as const;
const SCHEMES = ['light', 'dark'] as const;

const hasChromium = findChromium() !== undefined;
if (!hasChromium)
  console.warn('status page: NOT TESTED, there is no chromium: make test installs it');

let chromium: Chromium;
const servers: MetricsServer[] = [];

async function serve(source: StatusSource, where = '127.0.0.1:0'): Promise<MetricsServer> {
  const server = await serveMetrics(where, source);
  servers.push(server);
  return server;
}

/** What is to be read on the page, as people see it: hidden things are not there. */
function text(selector: string): Promise<string | null> {
  const found = `document.querySelector(${JSON.stringify(selector)})`;
  return chromium.evaluate(`${found}?.checkVisibility() ? ${found}.innerText : null`);
}

/** Waits until it reads as expected, and fails with how it reads. */
async function reads(selector: string, expected: RegExp | null): Promise<void> {
  const end = Date.now() + WAIT_MILLIS_MAX;
  const isSo = (got: string | null) =>
    expected === null ? got === null : expected.test(got ?? '');
  let got = await text(selector);
  while (!isSo(got) && Date.now() < end) {
    await sleep(100);
    got = await text(selector);
  }
  if (expected === null) expect(got, selector).toBeNull();
  else expect(got, selector).toMatch(expected);
}

const CARD = '.card';
const inCard = (name: string, card = CARD) => `${card} [data-f="${name}"]`;

function holding(part: Partial<Statistics>): Statistics {
  return statisticsOf({ disksize: 512 * MIB, ...part });
}

describe.skipIf(!hasChromium)('the status page', () => {
  beforeAll(async () => {
    chromium = await Chromium.start();
    await chromium.show({ width: 1280 });
  });
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
    expect(chromium.complaints).toEqual([]);
  });
  afterAll(() => chromium?.close());

  it('shows what a device holds and costs, and follows it', async () => {
    const pages_stored = (300 * MIB) / PAGE;
    const statistics = holding({
      pages_stored,
      pages_zero: (12 * MIB) / PAGE,
      pages_on_backing: (100 * MIB) / PAGE,
      orig_data_size: 300 * MIB,
      compr_data_size: 90 * MIB,
      mem_used_total: 100 * MIB,
      backing_swap_name: '/dev/sdx1',
      // 98 below 16 µs, two more below 64; one of three above all.
      read_latency: [0, 0, 0, 98, 0, 2, ...new Array(18).fill(0)],
      write_latency: [...new Array(22).fill(0), 2, 1],
      oldest_page_seconds: 7300,
    });
    const source = new StatusSource(deviceOf('ramzswap0', { statistics }));
    const { address } = await serve(source);
    await chromium.open(address);
    await reads('#link', /^live$/);
    await reads('h2', /^ramzswap0$/);
    await reads('#daemon', /^version 1\.2\.3 · process 4711 · up 90 s$/);
    await reads(inCard('state'), /^active$/);
    await reads(inCard('where'), /ramzswap0\.sock · thread 0 · backing swap \/dev\/sdx1$/);
    await reads(inCard('disk'), /^412 MiB of 512 MiB, 80\.5%$/);
    await reads(inCard('stored'), /^300 MiB$/);
    await reads(inCard('memory'), /^100 MiB$/);
    await reads(inCard('ratio'), /^3\.00$/);
    await reads('.facts', /Compressed to\s+30\.0%\s+Memory holding data\s+90\.0%/);
    await reads(
      '.facts',
      /Reads\s+half < 16 µs, 99% < 64 µs\s+Writes\s+half < 8\.4 s, 99% > 8\.4 s/,
    );
    await reads('.facts', /Backing reads\s+–\s+Backing writes\s+–\s+Oldest page\s+2 h 1 min/);
    await reads('#totals', /300 MiB\s+1 device, 1 active[\s\S]*100 MiB\s+200 MiB saved/);

    source.list = [
      deviceOf('ramzswap0', {
        statistics: { ...statistics, orig_data_size: 200 * MIB, mem_used_total: 50 * MIB },
      }),
    ];
    await reads(inCard('stored'), /^200 MiB$/);
    await reads(inCard('memory'), /^50 MiB$/);
    await reads(inCard('ratio'), /^4\.00$/);
    const drawn = await chromium.evaluate<string>(
      `document.querySelector('.chart .line').getAttribute('d')`,
    );
    // The highest of 300 MiB on an axis up to 384 MiB, then 200 MiB.
    const heights = [...drawn.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y));
    expect(heights.length).toBeGreaterThan(1);
    expect([heights[0], heights.at(-1)]).toEqual([21.9, 47.9]);
  });

  it('shows how fast counters grow, under load, and no rate where they begin again', async () => {
    const begun = performance.now();
    const source = new StatusSource();
    let offset = 0;
    source.devices = () => {
      const seconds = (performance.now() - begun) / 1000;
      const num_writes = Math.floor(offset + 50_000 * seconds);
      const statistics = holding({
        num_writes,
        num_reads: Math.floor(offset + 8000 * seconds),
        serve_micros: 200_000 * seconds,
        poll_micros: 50_000 * seconds,
      });
      return [deviceOf('a', { statistics }), deviceOf('b', { statistics })];
    };
    const { address } = await serve(source);
    await chromium.open(address);
    await reads(inCard('written'), /\d\/s$/);
    const rates: number[] = [];
    for (let looks = 0; looks < 8; looks++) {
      await sleep(250);
      rates.push(Number((await text(inCard('written')))?.replace(/[^\d]/g, '')));
    }
    const middle = rates.sort((a, b) => a - b)[4]!;
    expect(middle / 50_000, String(rates)).toBeCloseTo(1, 0);
    expect(Math.abs(middle / 50_000 - 1), String(rates)).toBeLessThan(0.3);
    await reads('.facts', /Busy\s+(2\d|3[0-3])\.\d% of a thread/);
    await reads('#totals [data-f="read"]', /^1[3-9],\d\d\d/);
    offset = -40_000_000;
    await reads(inCard('written'), /^–$/);
    await reads(inCard('written'), /^[345]\d,\d\d\d\/s$/);
  });

  it('is loud about pages that could not be read, and says when', async () => {
    const source = new StatusSource(
      deviceOf('well', { statistics: holding({}) }),
      deviceOf('ill', { statistics: holding({ failed_writes: 2 }) }),
    );
    const { address } = await serve(source);
    await chromium.open(address);
    const ill = '.card:nth-child(2)';
    await reads(inCard('warn', ill), /^2 pages could not be written/);
    await reads('#failures', null);
    const statistics = holding({ failed_writes: 2, failed_reads: 17, pages_lost: 1 });
    source.list = [source.list[0]!, deviceOf('ill', { statistics })];
    await reads('#failures', /could not be read\s+ill: 17 pages could not be read; 1 page is lost/);
    await reads(inCard('bad', ill), /^17 pages could not be read\s+the last one \d+ s ago/);
    await reads(inCard('bad'), null);
    expect(await chromium.evaluate('document.title')).toBe('(!) ramzswap');
    const roles = `document.querySelector('#failures').getAttribute('role')`;
    expect(await chromium.evaluate(roles)).toBe('alert');
  });

  it('says that the daemon is gone, since when, and that it is back', async () => {
    const source = new StatusSource(deviceOf('a', { statistics: holding({}) }));
    const { address } = await serve(source);
    await chromium.open(address);
    await reads('#link', /^live$/);
    await reads('#gone', null);
    servers.pop()!.close();
    await reads('#gone', /^The daemon does not answer\s+What is shown is from \d+:\d+:\d+/);
    await reads('#link', /^no answer$/);
    expect(await chromium.evaluate('document.title')).toBe('(no answer) ramzswap');
    // What was there stays, and is seen to be old.
    await reads('h2', /^a$/);
    const opacity = `getComputedStyle(document.querySelector('.cards')).opacity`;
    expect(Number(await chromium.evaluate(opacity))).toBeLessThan(1);
    await serve(source, new URL(address).host);
    await reads('#link', /^live$/);
    await reads('#gone', null);
  });

  it('says what is wrong when the figures cannot be read', async () => {
    const source = new StatusSource();
    const { address } = await serve(source);
    source.devices = () => {
      throw new Error('no');
    };
    await chromium.open(address);
    await reads('#gone', /not answered yet.*It says: the figures could not be read/);
  });

  it('has devices come, go, and be initialised', async () => {
    const bare = deviceOf('bare', { state: 'uninitialised', connected: false, statistics: null });
    const source = new StatusSource();
    const { address } = await serve(source);
    await chromium.open(address);
    await reads('#none', /no devices/);
    source.list = [deviceOf('first', { statistics: holding({}) }), bare];
    await reads('.card:nth-child(2) h2', /^bare$/);
    await reads(inCard('bare', '.card:nth-child(2)'), /^Not initialised/);
    await reads(inCard('body', '.card:nth-child(2)'), null);
    await reads('#none', null);
    source.list = [deviceOf('bare', { state: 'initialised', statistics: holding({}) })];
    await reads('h2', /^bare$/);
    await reads(inCard('state'), /^initialised, connected$/);
    await reads(inCard('disk'), /^0 B of 512 MiB, 0\.0%$/);
    await reads('.card:nth-child(2)', null);
  });

  it('shows names as they are, whatever they are', async () => {
    const name = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`;
    const socket = '</p><b>bold</b>';
    const statistics = holding({ failed_reads: 1, backing_swap_name: '<i>x</i>' });
    const { address } = await serve(new StatusSource(deviceOf(name, { socket, statistics })));
    await chromium.open(address);
    await reads('#failures', /<img src=x .*<\/script>: 1 page could not be read/);
    expect(await text('h2')).toBe(name);
    await reads(inCard('where'), /^<\/p><b>bold<\/b> .*<i>x<\/i>$/);
    const made = `document.querySelectorAll('img, body script ~ script, .where *, h2 *').length`;
    expect(await chromium.evaluate(made)).toBe(0);
    expect(await chromium.evaluate('document.title')).not.toContain('owned');
  });

  it('lists every figure to those who ask', async () => {
    const statistics = holding({ num_reads: 1234567 });
    const { address } = await serve(new StatusSource(deviceOf('a', { statistics })));
    await chromium.open(address);
    await reads('summary', /^All figures$/);
    await chromium.evaluate(`document.querySelector('summary').click()`);
    await reads('table', /num_reads\s+1,234,567/);
    const rows = await chromium.evaluate(`document.querySelectorAll('tbody tr').length`);
    expect(rows).toBe(Object.keys(statistics).length);
  });

  it('asks nobody but the daemon', async () => {
    const { address } = await serve(new StatusSource(deviceOf('a')));
    await chromium.open(address);
    await reads('#link', /^live$/);
    const asked = await chromium.evaluate<string[]>(
      `performance.getEntriesByType('resource').map(({ name }) => name)`,
    );
    expect(new Set(asked)).toEqual(new Set([`${address}/api/status`]));
  });

  describe.each(WIDTHS)('%d pixels wide', (width) => {
    it.each(SCHEMES)('fits, and can be read, in %s', async (scheme) => {
      const name = 'a-name-that-is-as-long-as-one-can-be';
      const all = holding({
        ...{ failed_reads: 17, pages_lost: 3, failed_writes: 4, pages_on_backing: 400 },
        ...{ pages_stored: 4000, orig_data_size: 4000 * PAGE, compr_data_size: MIB },
        ...{ mem_used_total: 2 * MIB, backing_swap_name: `/var/lib/${name}/${name}/${name}` },
      });
      const source = new StatusSource(
        deviceOf(name, { statistics: all }),
        deviceOf('b', { statistics: holding({}) }),
        deviceOf('c', { statistics: null, state: 'uninitialised' }),
      );
      source.status = { ...source.status, budget: { limit: 1024 * MIB, committed: 700 * MIB } };
      const { address } = await serve(source);
      await chromium.show({ width, scheme });
      await chromium.open(address);
      await reads('#link', /^live$/);
      await chromium.evaluate(`document.querySelector('summary').click()`);
      await reads('table', /num_reads/);
      expect(await chromium.evaluate('document.documentElement.scrollWidth')).toBe(width);
      expect(await chromium.evaluate(`(${tooWide})()`)).toEqual([]);
      expect(await chromium.evaluate(`(${faint})()`)).toEqual([]);
    });
  });
});

/** In the page: texts that reach beyond the card that they are in. */
const tooWide = `function () {
  return [...document.querySelectorAll('.card, .totals > div')].flatMap((card) => {
    const { right } = card.getBoundingClientRect();
    return [...card.querySelectorAll('*')]
      .filter((inner) => inner.checkVisibility() && inner.getBoundingClientRect().right > right + 0.5)
      .map((inner) => inner.outerHTML.slice(0, 100));
  });
}`;

/** In the page: texts whose contrast is below what WCAG 2.1 wants (1.4.3: 4.5 to 1). */
const faint = `function () {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (numbers(color)[3] ?? 1) > 0 ? color : behind(element.parentElement);
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
  return [...document.body.querySelectorAll('*')]
    .filter((element) => element.checkVisibility() && hasText(element) && !element.matches('script, style'))
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 100)];
    })
    .filter(([contrast]) => contrast < 4.5);
}`;
