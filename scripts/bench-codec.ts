/**
 * Times the codec beside liblzo2 on real anonymous pages: `npx tsx scripts/bench-codec.ts [PAGES]`.
 *
 * Shared machines are noisy, so only ratios mean anything: the two sides take turns, slice by
 * slice, and medians are compared. liblzo2 runs in a process of its own (liblzo2.ts). A measuring tool,
 * not a test.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Table from 'cli-table3';
import { LZO1X_DICT_BYTES, Lzo1x, lzo1xWorstCase } from '../src/lzo-wasm/lzo1x.ts';
import { collectAnonymousPages, collectNativePages } from './corpus.ts';
import { CACHE_DIR } from './fetch.ts';
import { type CodecSide, openLiblzo2 } from './liblzo2.ts';
import { median } from './median.ts';

const PAGE_BYTES = 4096;
const WASM_PAGE_BYTES = 65536;
const SLICES = 15;
/** Slices whose times do not count: the engine is still compiling. */
const WARM_UP_SLICES = 3;
/** At most these times liblzo2's, for every corpus: a pager must not wait for its codec. */
const GOALS = { compress: 0.9, decompress: 0.5, size: 1 / 0.99 } as const;

type Figure = keyof typeof GOALS;

function openOurs(corpus: Buffer): CodecSide {
  const count = corpus.length / PAGE_BYTES;
  const room = lzo1xWorstCase(PAGE_BYTES);
  const out = LZO1X_DICT_BYTES;
  const plain = out + 2 * PAGE_BYTES;
  const packed = plain + corpus.length;
  const wasmPages = Math.ceil((packed + count * room) / WASM_PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages });
  const bytes = Buffer.from(memory.buffer);
  const codec = new Lzo1x(memory, 0);
  bytes.set(corpus, plain);

  const starts = new Uint32Array(count + 1);
  let at = packed;
  for (let i = 0; i < count; i++) {
    starts[i] = at;
    at += codec.compress(plain + i * PAGE_BYTES, PAGE_BYTES, at);
  }
  starts[count] = at;

  for (let i = 0; i < count; i++) {
    const length = codec.decompress(starts[i]!, starts[i + 1]! - starts[i]!, out, PAGE_BYTES);
    const page = corpus.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
    if (length !== PAGE_BYTES || !page.equals(bytes.subarray(out, out + PAGE_BYTES))) {
      throw new Error(`page ${i} is not restored`);
    }
  }

  return {
    compressedBytes: at - packed,
    async run(operation) {
      const from = process.hrtime.bigint();
      for (let i = 0; i < count; i++) {
        if (operation === 'compress') codec.compress(plain + i * PAGE_BYTES, PAGE_BYTES, out);
        else codec.decompress(starts[i]!, starts[i + 1]! - starts[i]!, out, PAGE_BYTES);
      }
      return Number(process.hrtime.bigint() - from);
    },
    close() {},
  };
}

async function compare(name: string, corpus: Buffer, table: Table.Table): Promise<void> {
  const corpusFile = join(CACHE_DIR, 'bench-codec.pages');
  writeFileSync(corpusFile, corpus);
  const ours = openOurs(corpus);
  const theirs = await openLiblzo2(corpusFile);
  const count = corpus.length / PAGE_BYTES;
  const row: string[] = [name, String(count)];
  const ratios = {
    size: ours.compressedBytes / theirs.compressedBytes,
    compress: 0,
    decompress: 0,
  };
  for (const operation of ['compress', 'decompress'] as const) {
    const times: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
    for (let slice = 0; slice < WARM_UP_SLICES + SLICES; slice++) {
      const ourTime = await ours.run(operation);
      const theirTime = await theirs.run(operation);
      if (slice < WARM_UP_SLICES) continue;
      times.ours.push(ourTime);
      times.theirs.push(theirTime);
    }
    const [a, b] = [median(times.ours), median(times.theirs)];
    row.push((a / count / 1000).toFixed(2), (b / count / 1000).toFixed(2), (a / b).toFixed(2));
    ratios[operation] = a / b;
  }
  row.push((corpus.length / ours.compressedBytes).toFixed(2), ratios.size.toFixed(3));
  const missed = Object.entries(GOALS).filter(([figure, most]) => ratios[figure as Figure] > most);
  row.push(missed.map(([figure]) => figure).join(', ') || 'none');
  table.push(row);
  theirs.close();
}

async function main(): Promise<void> {
  const pages = Number(process.argv[2] ?? 8192);
  mkdirSync(CACHE_DIR, { recursive: true });
  const table = new Table({
    head: [
      ...['corpus', 'pages', 'compress µs/page', 'liblzo2', 'time ratio'],
      ...['decompress µs/page', 'liblzo2', 'time ratio', 'times smaller', 'size ratio'],
      'goals missed',
    ],
    style: { head: [], border: [] },
    colWidths: [12, 7, 13, 9, 8, 13, 9, 8, 10, 8, 13],
    wordWrap: true,
  });
  await compare('helpers', collectAnonymousPages(pages), table);
  await compare('this process', collectAnonymousPages(pages, [process.pid]), table);
  await compare('native', collectNativePages(pages), table);
  if (process.env.CORPUS) await compare('CORPUS', readFileSync(process.env.CORPUS), table);
  console.log(table.toString());
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
