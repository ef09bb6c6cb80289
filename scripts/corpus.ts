/**
 * Real anonymous pages from live processes, for judging the codec on what swap really holds.
 *
 * By default these are helper processes started for the purpose (interpreters, or programs of C,
 * with everyday heaps) and this process itself: the memory of strangers may hold secrets, and is
 * read only when the caller names their PIDs. Reads /proc/PID/{maps,pagemap,mem} and changes nothing there. All-zero
 * pages and pages of one repeated word are left out: the store never compresses them. Called by
 * scripts/bench-codec.ts and by tests; never throws for want of permissions or of programs, but
 * falls back to this process's own memory.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

const PAGE_BYTES = 4096;
/** Bit 63 of a pagemap entry: the page is in memory. */
const PAGEMAP_PRESENT = 0x80;
const PAGEMAP_ENTRY_BYTES = 8;
/** Mappings beyond this are reservations, mostly untouched: looking through them takes seconds. */
const MAPPING_BYTES_MAX = 2 ** 32;

/** Programs that fill a heap with everyday objects and then wait for their input to close. */
type Helpers = ReadonlyArray<readonly [string, ...string[]]>;

const INTERPRETERS: Helpers = [
  [
    'python3',
    '-c',
    'import ast, json, email, decimal, sys\n' +
      'd = {i: {"name": "user%d" % i, "tags": ["a", str(i * 7)]} for i in range(20000)}\n' +
      't = [ast.parse(open(m.__file__).read()) for m in (ast, json, decimal)]\n' +
      'sys.stdin.read()',
  ],
  [
    'python3',
    '-c',
    'import array, random, sys\n' +
      'random.seed(1)\n' +
      'f = array.array("d", (random.gauss(0, 1) for _ in range(200000)))\n' +
      'i = array.array("l", (k * k % 65521 for k in range(300000)))\n' +
      's = [hex(random.getrandbits(96)) for _ in range(30000)]\n' +
      'sys.stdin.read()',
  ],
  [
    process.execPath,
    '-e',
    'globalThis.a = Array.from({ length: 3e4 }, (_, i) => ({ i, s: "n" + i, d: new Date(i) }));' +
      'process.stdin.resume()',
  ],
  ['perl', '-e', 'my %h; $h{"key$_"} = [$_, "value " . $_ * 3] for 1 .. 50000; <STDIN>'],
  ['bash', '-c', 'for i in {1..20000}; do a[i]="line $i of $RANDOM"; done; read -r'],
];

const C_FUNCTIONS =
  'static int f##n(int *p, int k) { int s = 0; for (int i = 0; i < k; i++) s += p[i] * n;' +
  ' return s; } int g##n(int *p) { return f##n(p, n) + f##n(p + 1, n + 1); }';
const CXX_FUNCTIONS =
  'int f##n(std::map<int, std::string> &m) { m[n] += "x"; return m.size() * n; }';

/** A compiler proper, in the middle of a file: its last include is our pipe. */
function compiler(program: 'cc1' | 'cc1plus', includes: readonly string[], code: string) {
  const file = [
    ...includes.map((name) => `#include <${name}>`),
    `#define F(n) ${code}`,
    ...Array.from({ length: 500 }, (_, n) => `F(${n})`),
    '#include "/dev/stdin"',
  ];
  return [
    'bash',
    '-c',
    `exec "$(gcc -print-prog-name=${program})" -quiet -O2 -imultiarch "$(gcc -print-multiarch)" \
      -o /dev/null /dev/fd/3 3<<< '${file.join('\n')}'`,
  ] as const;
}

const NATIVE: Helpers = [
  compiler('cc1', ['stdio.h', 'stdlib.h', 'string.h', 'math.h', 'unistd.h'], C_FUNCTIONS),
  compiler('cc1plus', ['bits/stdc++.h'], CXX_FUNCTIONS),
  [
    'sqlite3',
    '-cmd',
    'create table t(id integer primary key, name text, price real);' +
      'with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)' +
      " insert into t select i, 'name ' || (i * 7919 % 10007), i * 1.37 from n;" +
      'create index by_name on t(name)',
    ':memory:',
  ],
  // The text of every header, and an array of its lines.
  ['bash', '-c', 'exec sort /usr/include/*.h /usr/include/linux/*.h -'],
];

/** Up to `maxPages` pages of 4096 bytes, spread evenly over `pids` (default: see above). */
export function collectAnonymousPages(maxPages: number, pids?: number[]): Buffer {
  if (pids !== undefined) return gather(maxPages, pids);
  return gatherFromHelpers(maxPages, INTERPRETERS, [process.pid]);
}

/** The same of programs of C and C++: two compilers, a database, the lines of many files. */
export function collectNativePages(maxPages: number): Buffer {
  return gatherFromHelpers(maxPages, NATIVE, []);
}

function gatherFromHelpers(maxPages: number, programs: Helpers, others: number[]): Buffer {
  const helpers = startHelpers(programs);
  try {
    return gather(maxPages, [...helpers.map((child) => child.pid!), ...others]);
  } finally {
    for (const child of helpers) child.kill();
  }
}

function gather(maxPages: number, pids: number[]): Buffer {
  const pages = Buffer.alloc(maxPages * PAGE_BYTES);
  let count = 0;
  // Each process gets an equal share of what is still wanted; the small ones go first, so that
  // what they cannot use falls to the large.
  const sources = pids.map((pid) => ({ pid, addresses: presentPages(pid) }));
  sources.sort((a, b) => a.addresses.length - b.addresses.length);
  for (const [index, source] of sources.entries()) {
    const share = Math.ceil((maxPages - count) / (sources.length - index));
    count += readPages(source.pid, source.addresses, pages.subarray(count * PAGE_BYTES), share);
  }
  return pages.subarray(0, count * PAGE_BYTES);
}

/** Addresses of the resident pages in the writable, private, anonymous mappings of a process. */
function presentPages(pid: number): number[] {
  const addresses: number[] = [];
  let pagemap = -1;
  try {
    const maps = readFileSync(`/proc/${pid}/maps`, 'utf8');
    pagemap = openSync(`/proc/${pid}/pagemap`, 'r');
    for (const line of maps.split('\n')) {
      const fields = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(\[heap\]|\[anon.*\])?$/.exec(line);
      if (!fields) continue;
      const start = Number.parseInt(fields[1]!, 16);
      const bytes = Number.parseInt(fields[2]!, 16) - start;
      if (bytes > MAPPING_BYTES_MAX) continue;
      const entries = Buffer.alloc((bytes / PAGE_BYTES) * PAGEMAP_ENTRY_BYTES);
      const got = readSync(pagemap, entries, 0, entries.length, (start / PAGE_BYTES) * 8);
      for (let at = 0; at < got; at += PAGEMAP_ENTRY_BYTES) {
        const present = entries[at + PAGEMAP_ENTRY_BYTES - 1]! & PAGEMAP_PRESENT;
        if (present) addresses.push(start + (at / PAGEMAP_ENTRY_BYTES) * PAGE_BYTES);
      }
    }
  } catch {
    // Gone meanwhile, or not ours to read: what was found so far will do.
  } finally {
    if (pagemap >= 0) closeSync(pagemap);
  }
  return addresses;
}

/** Reads up to `limit` pages, at an even stride over `addresses`; returns how many. */
function readPages(pid: number, addresses: number[], into: Buffer, limit: number): number {
  let count = 0;
  let memory = -1;
  try {
    memory = openSync(`/proc/${pid}/mem`, 'r');
    // The first round takes every stride-th page; further rounds make up for the filled ones.
    const stride = Math.max(1, Math.floor(addresses.length / Math.max(1, limit)));
    for (let first = 0; first < stride && count < limit; first++) {
      for (let i = first; i < addresses.length && count < limit; i += stride) {
        const page = into.subarray(count * PAGE_BYTES, (count + 1) * PAGE_BYTES);
        if (readSync(memory, page, 0, PAGE_BYTES, addresses[i]!) !== PAGE_BYTES) continue;
        if (!isFilled(page)) count++;
      }
    }
  } catch {
    // As above: a process may end or refuse at any moment.
  } finally {
    if (memory >= 0) closeSync(memory);
  }
  return count;
}

/** Whether a page repeats its first eight bytes throughout. */
function isFilled(page: Buffer): boolean {
  return page.subarray(8).equals(page.subarray(0, PAGE_BYTES - 8));
}

function startHelpers(programs: Helpers): ChildProcess[] {
  const children = programs
    .map(([program, ...args]) =>
      // No environment beyond PATH: its pages would be part of the corpus.
      spawn(program, args, {
        stdio: ['pipe', 'ignore', 'ignore'],
        env: { PATH: process.env.PATH },
      }).on('error', () => {}),
    )
    .filter((child) => child.pid !== undefined);
  // Ready when all sleep in their read, twice in a row (starting up, they sleep now and then); a
  // synchronous wait keeps this usable from anywhere.
  const deadline = Date.now() + 5000;
  const idle = new Int32Array(new SharedArrayBuffer(4));
  let quietRounds = 0;
  while (quietRounds < 2 && Date.now() < deadline) {
    Atomics.wait(idle, 0, 0, 200);
    quietRounds = children.every((child) => isAsleep(child.pid!)) ? quietRounds + 1 : 0;
  }
  return children;
}

function isAsleep(pid: number): boolean {
  try {
    return /\) S /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return true;
  }
}
