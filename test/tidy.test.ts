/**
 * What the house style says of the tree itself: who may import whom, sizes of files and functions,
 * mirror tests, words. The tables here are the rules; ARCHITECTURE.md gives the reasons.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Folder of src → folders it may import. Imports follow the data, or go to base. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  base: [],
  native: ['base'],
  memory: ['base', 'native'],
  'vhost-user-ts': ['base', 'native'],
  virtio: ['base', 'memory'],
  'virtio-blk': ['base', 'memory', 'virtio'],
  'lzo-wasm': ['base'],
  xvmalloc: ['base', 'memory', 'native'],
  backing: ['base', 'memory', 'native'],
  store: ['base', 'memory', 'xvmalloc', 'lzo-wasm', 'backing'],
  device: [
    'base',
    'memory',
    'native',
    'vhost-user-ts',
    'virtio',
    'virtio-blk',
    'store',
    'xvmalloc',
    'lzo-wasm',
    'backing',
  ],
  control: ['base', 'backing', 'device', 'store'],
  bin: ['base', 'control', 'device', 'store'],
};

/** Package → the only folders that may import it. */
const PACKAGE_HOME: Record<string, readonly string[]> = {
  koffi: ['native'],
  pino: ['control'],
  'json-rpc-2.0': ['control'],
  yaml: ['control'],
  zod: ['control'],
  commander: ['bin'],
  'cli-table3': ['control'],
  'prom-client': ['control'],
  'node:worker_threads': ['device'],
};

const FILE_LINES_MAX = 600;
const FUNCTION_LINES_MAX = 70;

/**
 * Files without a test of their own name, and what tests them instead.
 */
const TESTED_ELSEWHERE: Record<string, string> = {
  'base/page-operation.ts': 'an interface: virtio-blk/pending.test.ts',
  'bin/ramzswap-run.ts': 'control/qemu-run.test.ts',
  'base/turn-clock.ts': 'an interface: native/clock.test.ts',
  'bin/ramzswapd.ts': 'device/daemon.test.ts',
  'control/control-options.ts': 'bin/rzscontrol.test.ts',
  'control/control-run.ts': 'bin/rzscontrol.test.ts',
  'control/device-options.ts': 'device/backing.test.ts',
  'control/figures.ts': 'a table that the compiler completes',
  'control/hang-up.ts': 'control/top.test.ts',
  'control/methods.ts': 'control/devices.test.ts',
  'control/options.ts': 'control/plan.test.ts',
  'control/protocol.ts': 'types; lines: fuzz/control.ts',
  'control/schema.ts': 'control/server.test.ts',
  'control/daemon.ts': 'device/daemon.test.ts',
  'control/version.ts': 'device/daemon.test.ts',
  'control/take-over.ts': 'device/take-over.test.ts',
  'native/aio-abi.ts': 'tables: native/linux-aio.test.ts',
  'device/device-terms.ts': 'types only',
  'device/disk.ts': 'device/resetting.test.ts',
  'device/meeting.ts': 'device/new-guest.test.ts',
  'device/kept-regions.ts': 'device/taken-over.test.ts',
  'device/queue-sets.ts': 'device/remote-queues.test.ts',
  'device/device-store.ts': 'device/taken-over.test.ts',
  'device/endpoint.ts': 'device/daemon.test.ts',
  'device/orders.ts': 'types only',
  'device/page-owner.ts': 'device/keeping.test.ts',
  'device/queue-worker.ts': 'device/remote-queues.test.ts',
  'device/reactor-worker.ts': 'device/daemon.test.ts',
  'device/reactor.ts': 'device/daemon.test.ts',
  'lzo-wasm/webassembly.d.ts': 'types only',
  'vhost-user-ts/errors.ts': 'vhost-user-ts/backend.test.ts',
  'vhost-user-ts/index.ts': 'exports only',
  'vhost-user-ts/protocol.ts': 'numbers only: vhost-user-ts/backend.test.ts',
  'virtio/features.ts': 'numbers only: device/block-device.test.ts',
  'virtio/split-ring.ts': 'numbers only: virtio/virtqueue.test.ts',
  'store/passed-files.ts': 'device/fd-store.test.ts',
  'store/slot-word.ts': 'store/recovery.test.ts',
  'store/store-options.ts': 'store/page-store.test.ts',
  'xvmalloc/arena-file.ts': 'xvmalloc/arena.test.ts',
  'store/move-out.ts': 'store/backed-store.test.ts',
  'virtio-blk/turn-costs.ts': 'virtio-blk/turns.test.ts',
  'virtio-blk/block-request.ts': 'virtio-blk/pending.test.ts',
  'virtio-blk/clear-ranges.ts': 'virtio-blk/clearing.test.ts',
  'virtio-blk/completion-order.ts': 'virtio-blk/pending.test.ts',
  'virtio-blk/no-pages.ts': 'device/resetting.test.ts',
  'virtio-blk/page-device.ts': 'an interface',
  'virtio-blk/protocol.ts': 'numbers only: virtio-blk/block-queue.test.ts',
};

/** Words that have a better one here. */
const BANNED: readonly [RegExp, string][] = [
  [/\bslave\b/i, 'back end'],
  [/\bmaster\b/i, 'front end'],
  [/\b(black|white)list/i, 'deny or allow list'],
  [/\bTODO\b(?!\([^)]+\))/, 'TODO(condition): …'],
  [/\bXXX\b|\bFIXME\b|\bHACK\b/, 'TODO(condition): …'],
  [/@ts-ignore/, 'a type that is right'],
  [/\bconsole\.log\b/, 'a report to the control thread'],
];

/** AssemblyScript: its decoder and matcher are one loop each, for speed, and longer than ours. */
const ASSEMBLY = 'src/lzo-wasm/assembly/';

/** Made, fetched or somebody else's. */
const NOT_OURS = new Set(['.git', 'node_modules', 'dist', '.cache']);

/** All files of the tree, relative to its top. */
function filesBelow(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (NOT_OURS.has(entry.name)) return [];
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

const FILES = filesBelow('.');

function read(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

const TYPESCRIPT = FILES.filter((path) => path.endsWith('.ts') && !path.startsWith(ASSEMBLY));
const SOURCES = TYPESCRIPT.filter((path) => path.startsWith('src/'));

function folderOf(path: string): string {
  return relative('src', path).split('/')[0]!;
}

function importsOf(path: string): string[] {
  return [...read(path).matchAll(/^(?:import|export)\b[^;]*?from '([^']+)'/gms)].map((m) => m[1]!);
}

/** Functions by their formatted shape: from a signature to the brace at its own indentation. */
function longFunctions(path: string): string[] {
  const lines = read(path).split('\n');
  const found: string[] = [];
  lines.forEach((line, start) => {
    const signature =
      /^(\s*)(?:export )?(?:private |static |async )*(?:function \w+|(?:get |set )?#?\w+(?:<[^>]*>)?\()/.exec(
        line,
      );
    if (!signature || /^\s*(if|for|while|switch|return|it|describe)\b/.test(line)) return;
    const end = lines.indexOf(`${signature[1]}}`, start);
    if (end - start + 1 <= FUNCTION_LINES_MAX || line.trimEnd().endsWith(';')) return;
    const between = lines.slice(start + 1, end).some((l) => l.startsWith(`${signature[1]}  `));
    if (between && !isCall(lines, start, signature[1]!)) found.push(`${path}:${start + 1}`);
  });
  return found;
}

/** A call that spans lines looks like a method until its end: `});` instead of `}`. */
function isCall(lines: string[], start: number, indent: string): boolean {
  const closing = lines
    .slice(start + 1)
    .find((line) => line.startsWith(`${indent}}`) || line.startsWith(`${indent})`));
  return (
    closing === undefined || closing.startsWith(`${indent})`) || closing.startsWith(`${indent}})`)
  );
}

describe('imports', () => {
  it('stay within the table of layers', () => {
    const wrong: string[] = [];
    for (const path of SOURCES) {
      const folder = folderOf(path);
      expect(MAY_IMPORT, `${path}: a folder of the table`).toHaveProperty(folder);
      for (const target of importsOf(path).filter((name) => name.startsWith('.'))) {
        const to = folderOf(normalize(join(dirname(path), target)));
        if (to !== folder && !MAY_IMPORT[folder]!.includes(to)) wrong.push(`${path} → ${target}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('of packages stay in their homes', () => {
    const wrong = SOURCES.flatMap((path) =>
      importsOf(path)
        .filter((name) => PACKAGE_HOME[name]?.includes(folderOf(path)) === false)
        .map((name) => `${path} → ${name}`),
    );
    expect(wrong).toEqual([]);
  });
});

describe('sizes', () => {
  it(`no file has more than ${FILE_LINES_MAX} lines`, () => {
    const long = TYPESCRIPT.filter((path) => read(path).split('\n').length > FILE_LINES_MAX);
    expect(long).toEqual([]);
  });

  it(`no function of src has more than ${FUNCTION_LINES_MAX} lines`, () => {
    expect(SOURCES.flatMap(longFunctions)).toEqual([]);
  });
});

describe('tests', () => {
  it('mirror every source file, or the table says what tests it', () => {
    const missing = SOURCES.map((path) => relative('src', path)).filter(
      (path) =>
        !(path in TESTED_ELSEWHERE) &&
        !existsSync(join(ROOT, 'test', path.replace(/\.ts$/, '.test.ts'))),
    );
    expect(missing).toEqual([]);
  });

  it('the table of files tested elsewhere names files that exist', () => {
    const gone = Object.entries(TESTED_ELSEWHERE).filter(([path, by]) => {
      const test = /[\w/-]+\.test\.ts/.exec(by)?.[0];
      return (
        !existsSync(join(ROOT, 'src', path)) || (test && !existsSync(join(ROOT, 'test', test)))
      );
    });
    expect(gone).toEqual([]);
  });
});

describe('words', () => {
  it('that have a better one are not used', () => {
    const found = SOURCES.flatMap((path) =>
      BANNED.filter(([word]) => word.test(read(path))).map(
        ([word, use]) => `${path}: ${word}, use ${use}`,
      ),
    );
    expect(found).toEqual([]);
  });

  it('every source file opens with a comment that says what it is', () => {
    const bare = SOURCES.filter((path) => !/^(#!.*\n)?\/\*\*/.test(read(path)));
    expect(bare).toEqual([]);
  });
});

describe('the top of the tree', () => {
  it('holds the folders of the design and no other', () => {
    const folders = new Set(
      FILES.filter((path) => path.includes('/')).map((path) => path.split('/')[0]!),
    );
    expect([...folders].sort()).toEqual(['.ci', 'guest', 'scripts', 'src', 'test']);
  });
});
